"""Which kernel multiplies with a weight: its type at run time and its memory.

A weight stays where its file is mapped unless something faster is known. The order of preference
comes from measured rates (``benchmarks/kernels.py``, GFLOP/s at the model's shapes, two cores of a
Xeon with AMX and two of a Zen 5):

    ============  ============  =====  ==========  =====================
    type          BF16 tiles    plain  CPU_REPACK  plain, Zen 5 (repack)
    ============  ============  =====  ==========  =====================
    F32           520 to 800      240           -  275
    F16           570 to 920      200           -  342
    BF16          1310 to 1700    200           -  583
    Q8_0          1440 to 1700    200           -  275
    Q6_K          1100 to 1660    135           -  170
    Q5_K          1350 to 1690    100           -  125
    Q4_K          1440 to 1760    135         310  185 (390 to 470)
    Q4_0          730 to 1380     180         270  230 (530 to 590)
    ============  ============  =====  ==========  =====================

The first column is our own (:mod:`granite_gguf.ggml.tiles`), the others are ggml's. Plain and
packed kernels of a quantized type do the same arithmetic: int8 products of the type's own blocks
with activations rounded to 8 bits. The tiles round less: decoded weights and activations to
bfloat16, F32 and F16 in two parts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from granite_gguf.ggml import (
    BF16,
    F16,
    F32,
    GGMLType,
    Packings,
    Runtime,
    Tiles,
    tiles_available,
)
from granite_gguf.ggml.build import build_info

_FLOATS = (F32, F16, BF16)
_PACKING = "CPU_REPACK"

# What may become BF16 to be multiplied faster, where the processor has products of bfloat16 but no
# tiles. The types of four bits have packed kernels that come near it.
_WIDENED = (F32, GGMLType.Q8_0, GGMLType.Q6_K, GGMLType.Q5_K, GGMLType.Q5_0, GGMLType.Q5_1)


class Precision(str, Enum):
    """What may be rounded while computing.

    ``EXACT`` multiplies each weight as the type it has in the file. In bfloat16 tiles, F32 and F16
    numbers and what they are multiplied with count with 16 bits of significand, as sums of two
    bfloat16 numbers.
    ``FAST`` may round weights and activations further, to the type with the fastest kernel: to
    bfloat16 where the processor has products of it.
    """

    EXACT = "exact"
    FAST = "fast"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class Kernel:
    """How a weight is multiplied.

    Attributes:
        type: of the weight at run time.
        packing: of its memory, by ggml's name, or None.
        tiles: whether it is multiplied in bfloat16 tiles.
    """

    type: GGMLType
    packing: str | None = None
    tiles: bool = False

    def __str__(self) -> str:
        if self.tiles:
            return f"{self.type.name} by bfloat16 tiles"
        return self.type.name + (f" in {self.packing}" if self.packing else "")


class Kernels:
    """Chooses a kernel for each matrix, by what a device's processor and build can do.

    Attributes:
        tiles: what multiplies in tiles, or None.
    """

    def __init__(self, runtime: Runtime, precision: Precision = Precision.EXACT) -> None:
        self._packings = Packings(runtime)
        on_cpu = runtime.device.kind == "cpu"
        self._fast = precision is Precision.FAST and on_cpu
        usable = on_cpu and tiles_available()
        self.tiles = Tiles(runtime.threads, split=not self._fast) if usable else None
        self._bfloat16 = self._fast and build_info().has("AVX512_BF16")

    @property
    def buffer_types(self) -> Mapping[str, int]:
        """ggml's packed buffer types, by name."""
        return self._packings.types

    def choose(self, kind: GGMLType, width: int, rows: int) -> Kernel:
        """The kernel of a matrix ``[width, rows]`` that its file holds as ``kind``."""
        if self.tiles:
            return Kernel(kind, tiles=True)
        if kind not in _FLOATS and self._packings.supports(_PACKING, kind, width, rows):
            return Kernel(kind, _PACKING)
        return Kernel(BF16 if self._bfloat16 and kind in _WIDENED else kind)
