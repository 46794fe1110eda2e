"""A stretch of a recording, without what lies before it and behind it.

    streams one behind the other → those that reach into the clip, from near its start → the clip

What is before it is passed over where the file can seek, and decoded where it cannot; nothing
behind it is decoded.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import inf

from granite_gguf.arrays import AnyArray, FloatArray
from granite_gguf.errors import AudioError, AudioWarning, InputError
from granite_gguf.sound.decoded import Decoded

_BEFORE_SECONDS = 1.0  # for decoders that must hear what goes before


@dataclass(frozen=True)
class Clip:
    """A stretch of a recording.

    Attributes:
        start: where it begins, in seconds.
        end: where it ends; by default with the recording.

    Raises:
        InputError: it begins before the recording, or ends where it begins or before that.
    """

    start: float = 0.0
    end: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.start < inf:
            raise InputError(f"the clip begins at {self.start:g} s, expected 0 or later")
        if self.end is not None and not self.start < self.end < inf:
            raise InputError(
                f"the clip begins at {self.start:g} s and ends at {self.end:g} s, expected an end "
                "behind its start"
            )

    def length(self, seconds: float) -> float:
        """How much of it a recording of so many seconds has."""
        return max(0.0, min(seconds, self.end or inf) - self.start)

    def check(self, name: str, seconds: float) -> None:
        """Compare it with a recording of so many seconds.

        Raises:
            AudioError: it begins where that has ended.

        Warns:
            AudioWarning: it ends later.
        """
        if 0 < self.start >= seconds:
            raise AudioError(f"{name}: ends at {seconds:.2f} s, and the clip begins at "
                             f"{self.start:g} s")  # fmt: skip
        if self.end is not None and seconds < self.end:
            warnings.warn(
                f"{name}: ends at {seconds:.2f} s, before the clip does at {self.end:g} s",
                AudioWarning,
                stacklevel=2,
            )

    def of_samples(self, samples: AnyArray, rate: float) -> AnyArray:
        """What lies in it of an array ``(n,)`` or ``(n, channels)``; errors as of :meth:`check`."""
        self.check("the array", len(samples) / rate)
        return samples[slice(*self._samples(rate, 0.0))]

    def of_streams(self, name: str, streams: Iterator[Decoded]) -> Iterator[Decoded]:
        """What lies in it of streams that follow one another; errors as of :meth:`check`."""
        passed = 0.0  # seconds
        for stream in streams:
            first, last = self._samples(stream.rate, passed)
            if stream.promised is not None and stream.promised <= first:
                passed += stream.promised / stream.rate
                continue
            part = _Part(stream, first, last)
            promised = stream.promised
            if promised is not None:
                promised = min(promised, promised if last is None else last) - first
            yield replace(stream, blocks=part.blocks(), promised=promised, expected=None)
            if part.is_over:
                return
            passed += part.passed / stream.rate
        self.check(name, passed)

    def _samples(self, rate: float, passed: float) -> tuple[int, int | None]:
        """Its first sample and the one behind its last, so many seconds into the recording."""
        first = max(0, round((self.start - passed) * rate))
        return first, None if self.end is None else max(0, round((self.end - passed) * rate))


class _Part:
    """The samples of a stream from one on, and up to another one."""

    def __init__(self, stream: Decoded, first: int, last: int | None) -> None:
        self._stream, self._first, self._last = stream, first, last
        self.passed = 0

    @property
    def is_over(self) -> bool:
        """Whether all of it has come."""
        return self._last is not None and self.passed >= self._last

    def blocks(self) -> Iterator[FloatArray]:
        """Its blocks, float32 ``(n, channels)``."""
        stream, first = self._stream, self._first
        near = first - round(_BEFORE_SECONDS * stream.rate)
        if stream.seek is not None and near > 0:
            self.passed = stream.seek(near)
        for block in stream.blocks:
            before, self.passed = self.passed, self.passed + len(block)
            last = len(block) if self._last is None else max(0, self._last - before)
            if len(part := block[max(0, first - before) : last]):
                yield part
            if self.is_over:
                return
