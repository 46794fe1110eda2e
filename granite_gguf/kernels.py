"""Which of ggml's kernels multiplies with a weight: its type at run time and its memory.

A weight stays where its file is mapped unless something faster is known. The order of preference
comes from measured rates (``benchmarks/kernels.py``, GFLOP/s at the model's shapes, two cores of a
Xeon with AMX and two of a Zen 5):

    ============  =====  ==========  ========  =====================
    type          plain  CPU_REPACK  AMX       plain, Zen 5 (repack)
    ============  =====  ==========  ========  =====================
    F32             240           -         -  275
    F16, BF16       200           -  no gain   342, 583
    Q8_0            200           -       530  275
    Q6_K            135           -       280  170
    Q5_K            100           -       480  125
    Q4_K            135         310       550  185 (390 to 470)
    Q4_0            180         270       500  230 (530 to 590)
    ============  =====  ==========  ========  =====================

A packed kernel does the same arithmetic as the plain one: int8 products of the type's own blocks
with activations rounded to 8 bits. Only ``Precision.FAST`` changes a weight's type.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from granite_gguf.ggml import BF16, F16, F32, GGMLType, Packings, Runtime
from granite_gguf.ggml.build import build_info

Q8_0 = GGMLType.Q8_0

_FLOATS = (F32, F16, BF16)
_PACKINGS = ("AMX", "CPU_REPACK")  # the faster one first

# What may become BF16 to be multiplied faster, where the processor has products of bfloat16 and
# no integer matrix unit. The types of four bits have packed kernels that come near it.
_WIDENED = (F32, Q8_0, GGMLType.Q6_K, GGMLType.Q5_K, GGMLType.Q5_0, GGMLType.Q5_1)


class Precision(str, Enum):
    """What may be rounded while computing.

    ``EXACT`` multiplies each weight as the type it has in the file. ``FAST`` may round weights
    and activations further, to the type with the fastest kernel: to 8 bits (Q8_0) on processors
    with an integer matrix unit (AMX), to bfloat16 on those with bfloat16 products alone.
    """

    EXACT = "exact"
    FAST = "fast"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class Kernel:
    """How a weight is multiplied: its type, and the packing of its memory or None."""

    type: GGMLType
    packing: str | None = None

    def __str__(self) -> str:
        return self.type.name + (f" in {self.packing}" if self.packing else "")


class Kernels:
    """Chooses a kernel for each matrix, by what a device's processor and build can do."""

    def __init__(self, runtime: Runtime, precision: Precision = Precision.EXACT) -> None:
        self._packings = Packings(runtime)
        self._fast = precision is Precision.FAST and runtime.device.kind == "cpu"
        self._bfloat16 = self._fast and build_info().has("AVX512_BF16")

    @property
    def buffer_types(self) -> Mapping[str, int]:
        """ggml's packed buffer types, by name."""
        return self._packings.types

    def choose(self, kind: GGMLType, width: int, rows: int) -> Kernel:
        """The kernel of a matrix ``[width, rows]`` that its file holds as ``kind``."""
        candidates = [Kernel(kind, packing) for packing in _PACKINGS if kind not in _FLOATS]
        if self._fast and kind in (*_FLOATS, GGMLType.Q6_K):
            candidates.insert(0, Kernel(Q8_0, "AMX"))
        for kernel in candidates:
            if self._supported(kernel, width, rows):
                return kernel
        if self._bfloat16 and kind in _WIDENED and "AMX" not in self.buffer_types:
            return Kernel(BF16)
        return Kernel(kind)

    def _supported(self, kernel: Kernel, width: int, rows: int) -> bool:
        packing = kernel.packing
        return packing is not None and self._packings.supports(packing, kernel.type, width, rows)
