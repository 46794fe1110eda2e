"""How the frames of several recordings lie side by side in one matrix ``[width, rows]``.

Most of a model works frame by frame. What does not asks the layout where a recording begins.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from granite_gguf.arrays import AnyArray
from granite_gguf.ggml import F16, F32, GGMLType, Graph, Tensor, concat, depthwise_conv_silu


@dataclass(frozen=True)
class Blocks:
    """Attention blocks of equal length.

    Attributes:
        start: the first block's first row.
        length: rows of each.
        count: how many.
        step: rows from one's first to the next one's.
        mask: F16 ``[length, length, 1, count]``, 0 where a key is a frame and minus infinity where
            it only fills up; by default all are frames.
    """

    start: int
    length: int
    count: int
    step: int
    mask: Tensor | None = None


class Layout(Protocol):
    """Where recordings lie."""

    @property
    def rows(self) -> int:
        """Rows of the matrix."""

    def blocks(self, size: int) -> Iterator[Blocks]:
        """Every recording in blocks of ``size`` rows, and what is left."""

    def join(self, parts: Sequence[Tensor], near: Tensor) -> Tensor:
        """The matrix again, from one of each of :meth:`blocks`; ``near`` as in ``concat``."""

    def convolve(self, taps: Tensor, x: Tensor, shift: Tensor) -> Tensor:
        """Each recording by itself, as :func:`granite_gguf.ggml.depthwise_conv_silu`."""

    def in_whole(self, size: int, x: Tensor) -> Tensor:
        """``[width, rows]`` with zeros behind each recording, up to a multiple of ``size``."""


@dataclass(frozen=True)
class Ragged:
    """One recording after another, with nothing in between.

    Attributes:
        lengths: rows of each.
    """

    lengths: Sequence[int]

    @property
    def rows(self) -> int:
        return sum(self.lengths)

    def blocks(self, size: int) -> Iterator[Blocks]:
        """Of each recording, the full blocks together, then the partial one at the end."""
        start = 0
        for frames in self.lengths:
            full, rest = divmod(frames, size)
            if full:
                yield Blocks(start, size, full, size)
            if rest:
                yield Blocks(start + full * size, rest, 1, rest)
            start += frames

    def join(self, parts: Sequence[Tensor], near: Tensor) -> Tensor:
        return concat(parts, 1, near)

    def convolve(self, taps: Tensor, x: Tensor, shift: Tensor) -> Tensor:
        parts = [depthwise_conv_silu(taps, part, shift) for part in x.divided(self.lengths)]
        return concat([part.reshape(*part.ne[:2]) for part in parts], 1, taps)

    def in_whole(self, size: int, x: Tensor) -> Tensor:
        return concat([part.pad_rows(-part.ne[1] % size) for part in x.divided(self.lengths)], 1)


@dataclass(frozen=True)
class Padded:
    """Recordings filled up to the length of the longest, so that one operation does them all.

    Where they differ in length, what fills up is told by two inputs of the graph, see
    :func:`filling`.

    Args:
        graph: has the inputs ``present`` and ``mask``.
        lengths: rows of each that are frames.
    """

    graph: Graph
    lengths: Sequence[int]
    _masks: dict[tuple[int, int], Tensor] = field(default_factory=dict)

    @property
    def length(self) -> int:
        """Rows of each recording."""
        return max(self.lengths)

    @property
    def count(self) -> int:
        """How many recordings there are."""
        return len(self.lengths)

    @property
    def rows(self) -> int:
        return self.length * self.count

    @property
    def even(self) -> bool:
        """Whether all rows are frames."""
        return min(self.lengths) == self.length

    def blocks(self, size: int) -> Iterator[Blocks]:
        """The first block of every recording, the second of every one, and so on."""
        for start in range(0, self.length, size):
            length = min(size, self.length - start)
            mask = None if self.even else self._mask(start, length)
            yield Blocks(start, length, self.count, self.length, mask)

    def _mask(self, start: int, length: int) -> Tensor:
        if (start, length) not in self._masks:
            mask = self._input("mask", [self.length, self.count], F16)
            keys = mask.columns(start, length).contiguous_copy()
            self._masks[start, length] = keys.reshape(length, 1, 1, self.count).spread(length)
        return self._masks[start, length]

    def join(self, parts: Sequence[Tensor], near: Tensor) -> Tensor:
        width = parts[0].ne[0]
        found = [part.reshape(width, part.ne[1] // self.count, self.count) for part in parts]
        return concat(found, 1, near).reshape(width, self.rows)

    def convolve(self, taps: Tensor, x: Tensor, shift: Tensor) -> Tensor:
        return depthwise_conv_silu(taps, self._framed(x), shift).reshape(x.ne[0], self.rows)

    def in_whole(self, size: int, x: Tensor) -> Tensor:
        filled = self._framed(x).pad_rows(-self.length % size)
        return filled.reshape(x.ne[0], filled.ne[1] * self.count)

    def _framed(self, x: Tensor) -> Tensor:
        """``[width, length, count]`` with zeros where a row only fills up."""
        if not self.even:
            x = x * self._input("present", [1, self.rows], F32)
        return x.reshape(x.ne[0], self.length, self.count)

    def _input(self, name: str, ne: Sequence[int], kind: GGMLType) -> Tensor:
        return self.graph.inputs.get(name) or self.graph.input(name, ne, kind)


def filling(lengths: Sequence[int], block: int) -> dict[str, AnyArray]:
    """The inputs of :class:`Padded` for recordings of these lengths, none where they are equal.

    In a block of attention where a recording has no frame, nothing is masked: its rows may become
    anything but NaN, which would spread.

    Args:
        lengths: rows of each that are frames.
        block: rows of an attention block.
    """
    longest = max(lengths)
    at = np.arange(longest)
    present = at < np.asarray(lengths)[:, None]
    if present.all():
        return {}
    begun = at // block * block < np.asarray(lengths)[:, None]
    mask = np.where(begun & ~present, -np.inf, 0.0).astype(np.float16)
    return {"present": present.reshape(-1, 1).astype(np.float32), "mask": mask}
