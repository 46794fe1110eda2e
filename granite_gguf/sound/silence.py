"""Tells silence from sound, by the recording's own level.

    samples → power of hops of 10 ms → stretches with sound in them

A model makes words of long silence, and spoils those beside it. What counts as silence lies far
below the level of speech, so that quiet speech stays; noise that is not stays as well.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from granite_gguf.arrays import Samples

_HOPS_PER_SECOND = 100
_KNOCK_HOPS = 20  # what is loud for less may be no speech
_COUNTED = 1e-4  # of the power of the loudest hop: what is quieter (40 dB) tells no level
_SILENT = 1e-4  # of the level's power: 40 dB below
_PAUSING = 10**-1.5  # 15 dB below: between words, though the room is heard
_LONG_PAUSE_SECONDS = 2.0
_LONG_END_SECONDS = 1.0
_KEPT_SECONDS = 0.2  # beside sound, for what begins and ends quietly


class Loudness:
    """The level of a recording, as far as it has been heard.

    The level is the median power of what is not much quieter than the loudest, so that a knock
    does not make silence of speech, nor a long silence speech of noise.

    Args:
        rate: samples a second.
    """

    def __init__(self, rate: int) -> None:
        self._hop = max(1, rate // _HOPS_PER_SECOND)
        self._long = round(_LONG_PAUSE_SECONDS * rate)
        self._end = round(_LONG_END_SECONDS * rate)
        self._kept = round(_KEPT_SECONDS * rate)
        self._level = 0.0

    def stretches(self, samples: Samples) -> Iterator[tuple[int, int, int, int]]:
        """What of a piece is to be transcribed.

        Long silence at its ends is left out, but for a little beside the sound, and it is divided
        at long pauses.

        Yields:
            Four places in the piece: where a stretch begins, where the sound in it begins, where
            that ends, where the stretch ends and the next begins. At least one, without sound
            where there is none.
        """
        powers = self._heard(samples)
        (sounding,) = np.nonzero(powers > _SILENT * self._level)
        if not len(sounding):
            yield 0, 0, 0, len(samples)
            return
        starts = np.maximum(sounding * self._hop - self._kept, 0)
        ends = np.minimum((sounding + 1) * self._hop + self._kept, len(samples))
        if starts[0] < self._end - self._kept:
            starts[0] = 0
        if len(samples) - ends[-1] < self._end - self._kept:
            ends[-1] = len(samples)
        breaks = np.flatnonzero(starts[1:] - ends[:-1] >= self._long - 2 * self._kept)
        firsts = [int(starts[0]), *(int(starts[n + 1]) for n in breaks)]
        lasts = [*(int(ends[n]) for n in breaks), int(ends[-1])]
        begins = [0, *((a + b) // 2 for a, b in zip(lasts, firsts[1:], strict=False))]
        yield from zip(begins, firsts, lasts, [*begins[1:], len(samples)], strict=True)

    def pauses(self, samples: Samples, shortest: int) -> bool:
        """Whether something sounds in a piece, and a pause of so many samples ends it."""
        powers = self._heard(samples)
        tail = -(-shortest // self._hop)
        if len(powers) <= tail:
            return False
        quiet = powers <= _PAUSING * self._level
        return bool(quiet[-tail:].all() and not quiet.all())

    def _heard(self, samples: Samples) -> npt.NDArray[np.float64]:
        """The power of each hop without its mean, which raises the level where it is loud."""
        hops = len(samples) // self._hop
        blocks = samples[: hops * self._hop].reshape(hops, self._hop).astype(np.float64)
        powers = blocks.var(axis=1) if hops else np.zeros(0)
        if hops:
            loudest = np.partition(powers, -min(_KNOCK_HOPS, hops))[-min(_KNOCK_HOPS, hops)]
            level = float(np.median(powers[powers >= _COUNTED * loudest]))
            self._level = max(self._level, level)
        return powers
