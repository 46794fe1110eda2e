"""Leaves out silence, which it tells from sound by the recording's own level.

    samples → power of hops of 10 ms → what sounds → stretches to be transcribed

A model makes words of long silence, and spoils those beside it. What counts as silence lies far
below the level of speech, so that quiet speech stays; noise that is not stays as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import numpy.typing as npt

from granite_gguf.arrays import IntArray, Samples

_HOPS_PER_SECOND = 100
_KNOCK_HOPS = 20  # what is loud for less may be no speech
_COUNTED = 1e-4  # of the power of the loudest hop: what is quieter (40 dB) tells no level
_SILENT = 1e-4  # of the level's power: 40 dB below
_PAUSING = 10**-1.5  # 15 dB below: between words, though the room is heard
LONG_PAUSE_SECONDS = 2.0
_LONG_END_SECONDS = 1.0
_KEPT_SECONDS = 0.2  # beside sound, for what begins and ends quietly


def hop_of(rate: int) -> int:
    """Samples of 10 ms."""
    return max(1, rate // _HOPS_PER_SECOND)


def in_hops(samples: Samples, hop: int) -> npt.NDArray[np.float64]:
    """Samples as ``(n, hop)``; what is left at the end is left out."""
    count = len(samples) // hop
    return samples[: count * hop].reshape(count, hop).astype(np.float64)


class Detector(Protocol):
    """Tells silence from what is to be transcribed."""

    def sounding(self, samples: Samples) -> IntArray:
        """Where something sounds in a piece: first sample and the one behind the last, ``(n, 2)``.

        Places are in order, and need not touch; a piece follows the one before it.
        """


def stretches(
    sounding: IntArray, count: int, rate: int, *, pause: float = LONG_PAUSE_SECONDS
) -> Iterator[tuple[int, int, int, int]]:
    """What of a piece is to be transcribed.

    Long silence at its ends is left out, but for a little beside the sound, and it is divided at
    long pauses.

    Args:
        sounding: where something sounds in it, as a :class:`Detector` tells it.
        count: its samples.
        rate: samples a second.
        pause: seconds from which on a pause is long.

    Yields:
        Four places in the piece: where a stretch begins, where the sound in it begins, where that
        ends, where the stretch ends and the next begins. At least one, without sound where there is
        none.

    >>> list(stretches(np.array([[40, 50], [250, 270], [280, 300]]), 360, rate=50))
    [(0, 0, 60, 150), (150, 240, 310, 360)]
    """
    if not len(sounding):
        yield 0, 0, 0, count
        return
    kept, end = round(_KEPT_SECONDS * rate), round(_LONG_END_SECONDS * rate)
    starts = np.maximum(sounding[:, 0] - kept, 0)
    ends = np.minimum(sounding[:, 1] + kept, count)
    if starts[0] < end - kept:
        starts[0] = 0
    if count - ends[-1] < end - kept:
        ends[-1] = count
    breaks = np.flatnonzero(starts[1:] - ends[:-1] >= round(pause * rate) - 2 * kept)
    firsts = [int(starts[0]), *(int(starts[n + 1]) for n in breaks)]
    lasts = [*(int(ends[n]) for n in breaks), int(ends[-1])]
    begins = [0, *((a + b) // 2 for a, b in zip(lasts, firsts[1:], strict=False))]
    yield from zip(begins, firsts, lasts, [*begins[1:], count], strict=True)


class Loudness:
    """The level of a recording, as far as it has been heard: a :class:`Detector`.

    The level is the median power of what is not much quieter than the loudest, so that a knock
    does not make silence of speech, nor a long silence speech of noise.

    Args:
        rate: samples a second.

    Attributes:
        level: the power; 0 where nothing was heard.
    """

    def __init__(self, rate: int) -> None:
        self._hop = hop_of(rate)
        self.level = 0.0

    def sounding(self, samples: Samples) -> IntArray:
        """The hops that are not far below the level."""
        powers = self.hear(samples)
        (hops,) = np.nonzero(powers > _SILENT * self.level)
        return np.stack([hops, hops + 1], axis=1) * self._hop

    def pauses(self, samples: Samples, shortest: int) -> bool:
        """Whether something sounds in a piece, and a pause of so many samples ends it."""
        powers = self.hear(samples)
        tail = -(-shortest // self._hop)
        if len(powers) <= tail:
            return False
        quiet = powers <= _PAUSING * self.level
        return bool(quiet[-tail:].all() and not quiet.all())

    def hear(self, samples: Samples) -> npt.NDArray[np.float64]:
        """The power of each hop without its mean, which raises the level where it is loud."""
        powers: npt.NDArray[np.float64] = in_hops(samples, self._hop).var(axis=1)
        if len(powers):
            knock = min(_KNOCK_HOPS, len(powers))
            loudest = np.partition(powers, -knock)[-knock]
            level = float(np.median(powers[powers >= _COUNTED * loudest]))
            self.level = max(self.level, level)
        return powers
