"""Element types of ggml tensors and the sizes of their blocks."""

from __future__ import annotations

from typing import NamedTuple

import gguf

GGMLType = gguf.GGMLQuantizationType

F32 = GGMLType.F32
F16 = GGMLType.F16
BF16 = GGMLType.BF16
I32 = GGMLType.I32

TYPES: dict[int, GGMLType] = {int(kind): kind for kind in GGMLType}
"""By number: asking the enumeration for each tensor of a graph takes longer."""


class Block(NamedTuple):
    """A block of a quantized type: how many elements it holds in how many bytes."""

    elements: int
    bytes: int


BLOCK_SIZES: dict[GGMLType, Block] = {
    kind: Block(*sizes) for kind, sizes in gguf.GGML_QUANT_SIZES.items()
}


def row_bytes(kind: GGMLType, width: int) -> int:
    """Bytes of a row of ``width`` elements.

    Raises:
        ValueError: ``width`` is no multiple of the type's block.
    """
    block = BLOCK_SIZES[kind]
    if width % block.elements:
        raise ValueError(
            f"a row of {width} elements does not divide into {kind.name} blocks of {block.elements}"
        )
    return width // block.elements * block.bytes
