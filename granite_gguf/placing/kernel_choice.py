"""Which kernel multiplies with a weight: its type at run time and its memory.

A weight stays where its file is mapped unless something faster is known. Ours
(:mod:`granite_gguf.ggml.products`) go before ggml's where the processor has any: their table is in
the order of measured rates (``benchmarks/kernels.py`` and ``benchmarks/RESULTS.md``).

What a kernel rounds besides the weight's own type: of quantized weights, those with integer
products round activations to 8 bits, 32 numbers with a scale of their own (ggml's kernels do
so too, for the K types with one scale for 256); the bfloat16 ones decoded weights and
activations to bfloat16, F32 and F16 in two parts.

What is chosen here is for many columns. Few ones, as of a token that is decoded or a draft that
is checked, are multiplied with rows as they lie in the file, without a panel: each kernel plans
that by type and columns, and the sums are the same bit for bit. Where there are tiles, such
products go to the next kernel of the table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from granite_gguf.errors import InputError
from granite_gguf.ggml import (
    BF16,
    F16,
    F32,
    GGMLType,
    Packings,
    Products,
    Runtime,
    available_kernels,
)
from granite_gguf.ggml.build import build_info
from granite_gguf.named import Named

_FLOATS = (F32, F16, BF16)
_PACKING = "CPU_REPACK"

AUTO, GGML = "auto", "ggml"
"""The kernels to use: the best of ours that the processor has, or ggml's alone."""

# What may become BF16 for ggml to multiply it faster, where the processor has products of bfloat16.
# The types of four bits have packed kernels that come near it.
_WIDENED = (F32, GGMLType.Q8_0, GGMLType.Q6_K, GGMLType.Q5_K, GGMLType.Q5_0, GGMLType.Q5_1)


class Precision(Named):
    """What may be rounded while computing.

    ``EXACT`` multiplies each weight as the type it has in the file. Quantized weights meet
    activations of 8 bits. In bfloat16 tiles, F32 and F16 numbers and what they are multiplied with
    count with 16 bits of significand, as sums of two bfloat16 numbers.
    ``FAST`` may round weights and activations further, to what the fastest kernel has: to 8 bits
    with a scale for 32 of them, or to bfloat16; on a device of its own to half precision, with sums
    in float32.
    """

    EXACT = "exact"
    FAST = "fast"


@dataclass(frozen=True)
class Kernel:
    """How a weight is multiplied.

    Attributes:
        type: of the weight at run time.
        packing: of its memory, by ggml's name, or None.
        own: the name of the kernel of ours, or None for ggml's.
    """

    type: GGMLType
    packing: str | None = None
    own: str | None = None

    def __str__(self) -> str:
        if self.own:
            return f"{self.type.name} by {self.own}"
        return self.type.name + (f" in {self.packing}" if self.packing else "")


class Kernels:
    """Chooses a kernel for each matrix, by what a device's processor and build can do.

    Args:
        runtime: computes.
        precision: what may be rounded.
        wanted: ``auto``, ``ggml``, or the name of the best kernel of ours to use: what that one
            does not take goes to the next of the table that does.

    Attributes:
        products: what multiplies by kernels of ours, or None.

    Raises:
        InputError: the processor, or the device, has no such kernel.
    """

    def __init__(
        self, runtime: Runtime, precision: Precision = Precision.EXACT, wanted: str = AUTO
    ) -> None:
        self._packings = Packings(runtime)
        on_cpu = not runtime.apart
        fast = precision is Precision.FAST
        self._fast, self._half = fast and on_cpu, fast and not on_cpu
        names = available_kernels() if on_cpu else []
        if wanted not in (AUTO, GGML, *names):
            raise InputError(
                f"there are no kernels {wanted!r} for {runtime.device.name}; there are "
                f"{', '.join((AUTO, *names, GGML))}"
            )
        self.products = None
        if names and wanted != GGML:
            first = None if wanted == AUTO else wanted
            self.products = Products(runtime.threads, first, exact=not self._fast)
        self._bfloat16 = self._fast and build_info().has("AVX512_BF16")

    @property
    def buffer_types(self) -> Mapping[str, int]:
        """ggml's packed buffer types, by name."""
        return self._packings.types

    def choose(self, kind: GGMLType, width: int, rows: int) -> Kernel:
        """The kernel of a matrix ``[width, rows]`` that its file holds as ``kind``."""
        if self.products and (own := self.products.kernel(kind)):
            return Kernel(kind, own=own)
        if kind not in _FLOATS and self._packings.supports(_PACKING, kind, width, rows):
            return Kernel(kind, _PACKING)
        if self._half:
            return Kernel(F16)
        return Kernel(BF16 if self._bfloat16 and kind in _WIDENED else kind)
