"""What others call the tensors of our files, as tables."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

_BLOCK = re.compile(r"(?:(\w+)\.)?blk\.(\d+)\.(\w+)(\..+)?")
_OTHER = re.compile(r"(.+?)((?:\.\d+)?(?:\.(?:weight|bias))?)")


@dataclass(frozen=True)
class NameTable:
    """Turns our name of a tensor into another one.

    Attributes:
        top: of what stands in no block, without number and ``.weight`` or ``.bias``.
        blocks: by what stands before ``blk.N.`` in our names, what stands before the number in the
            others, and the parts of a block.
    """

    top: Mapping[str, str]
    blocks: Mapping[str, tuple[str, Mapping[str, str]]]

    def __call__(self, name: str) -> str:
        block = _BLOCK.fullmatch(name)
        if block:
            stage, number, part, parameter = block.groups(default="")
            folder, parts = self.blocks[stage]
            return f"{folder}.{number}.{parts[part]}{parameter}"
        other = _OTHER.fullmatch(name)
        assert other is not None
        return self.top[other[1]] + other[2]
