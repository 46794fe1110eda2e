"""Arrays by what they hold, and several recordings' rows as one value."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, TypeVar, final

import numpy as np
import numpy.typing as npt

from granite_gguf.errors import InputError

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
Floats = npt.NDArray[np.floating[Any]]
AnyArray = npt.NDArray[Any]

Samples = FloatArray
"""Mono audio ``(n,)``."""


@final
@dataclass(frozen=True)
class Rows:
    """A ragged batch: the rows of several recordings, one recording after another.

    Iterating, and ``batch[n]``, give the rows of one, which are views.

    Attributes:
        array: ``(sum(counts), ...)``.
        counts: how many rows are whose.

    >>> batch = Rows.of([np.array([1, 2, 3]), np.array([4])])
    >>> batch.counts, batch.each(lambda part: part[::-1]).array.tolist()
    ((3, 1), [3, 2, 1, 4])
    """

    array: AnyArray
    counts: tuple[int, ...]

    def __post_init__(self) -> None:
        if sum(self.counts) != len(self.array):
            raise ValueError(f"{len(self.array)} rows cannot be divided into {self.counts}")

    @classmethod
    def of(cls, parts: Sequence[AnyArray]) -> Rows:
        """Recordings one after another, at least one; a single one is not copied."""
        array = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return cls(array, tuple(len(part) for part in parts))

    def __len__(self) -> int:
        return len(self.counts)

    def __getitem__(self, n: int) -> AnyArray:
        start = sum(self.counts[:n])
        return self.array[start : start + self.counts[n]]

    def __iter__(self) -> Iterator[AnyArray]:
        starts = accumulate(self.counts, initial=0)
        return (self.array[a : a + n] for a, n in zip(starts, self.counts, strict=False))

    def each(self, change: Callable[[AnyArray], AnyArray]) -> Rows:
        """What becomes of each recording's rows, be they more or fewer."""
        return Rows.of([change(part) for part in self])

    def some(self, wanted: Sequence[int]) -> Rows:
        """The recordings of these numbers, at least one."""
        return self if len(wanted) == len(self) else Rows.of([self[n] for n in wanted])

    def like(self, array: AnyArray) -> Rows:
        """Other rows, as many of each recording."""
        return Rows(array, self.counts)


Batch = TypeVar("Batch", AnyArray, Rows)
"""The rows of one recording, or those of several: whoever takes one answers in kind."""


def as_rows(batch: AnyArray | Rows) -> Rows:
    """Either as a batch."""
    return batch if isinstance(batch, Rows) else Rows(batch, (len(batch),))


def in_kind(given: Batch, answer: Rows) -> Batch:
    """An answer as what was asked with: an array for an array."""
    return answer if isinstance(given, Rows) else answer.array


def checked_rows(name: str, batch: AnyArray | Rows, width: int) -> Rows:
    """A stage's input as a batch of float32 matrices ``(T, width)``, T at least 1.

    Raises:
        InputError: it is something else.
    """
    parts = list(batch) if isinstance(batch, Rows) else [batch]
    for part in parts:
        if part.ndim != 2 or part.shape[1] != width or not len(part):
            raise InputError(f"{name} has the shape {part.shape}, expected (T, {width}) with T > 0")
        if part.dtype != np.float32:
            raise InputError(f"{name} is {part.dtype}, expected float32")
    return as_rows(batch)


def matrix(array: AnyArray) -> AnyArray:
    """A matrix without ggml's two outer dimensions of length 1."""
    return array.reshape(array.shape[-2:])
