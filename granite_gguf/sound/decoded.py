"""What every decoder makes of a recording."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from granite_gguf.arrays import FloatArray


@dataclass(frozen=True)
class Decoded:
    """A stream being decoded.

    Attributes:
        rate: samples a second.
        blocks: float32 ``(n, channels)``.
        promised: how many samples of each channel must come, where the file states it: fewer are
            a truncated file.
        expected: how many samples may come, where there is a guess.
        seek: goes to a sample or one before it, before the first block is asked for, and tells
            which one the first block then begins with; None where all must be decoded.
    """

    rate: int
    blocks: Iterator[FloatArray]
    promised: int | None = None
    expected: int | None = None
    seek: Callable[[int], int] | None = None

    @property
    def seconds(self) -> float | None:
        """The length as far as it is known before decoding."""
        count = self.promised if self.promised is not None else self.expected
        return None if count is None else count / self.rate
