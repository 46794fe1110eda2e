"""Cuts long audio where it is quiet.

    blocks of samples → pieces that follow one another without gap or overlap

Only the piece at hand is in memory. A cut lies in the second half of the longest piece allowed, in
the middle of the longest pause there.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from granite_gguf.arrays import Samples
from granite_gguf.sound.silence import Loudness, hop_of, in_hops

_PAUSE_HOPS = 20  # loudness is averaged over 200 ms, longer than the closure of a plosive
_ABOUT_AS_QUIET = 2.0  # in power: 3 dB
_SPOKEN_SECONDS = 2.0  # no shorter piece is made of what is just being spoken
_PAUSE_SECONDS = 0.6  # longer than between the words of a phrase


def chunks(blocks: Iterator[Samples], *, rate: int, longest: int) -> Iterator[tuple[int, Samples]]:
    """Cut audio into pieces.

    Args:
        blocks: mono samples, in order.
        rate: their rate in Hz.
        longest: samples of the longest piece, at least 4.

    Yields:
        Where a piece begins, in samples, and the piece; at least one, empty for empty audio.

    >>> speech = np.ones(1000, np.float32)
    >>> speech[700:760] = 0
    >>> [(at, len(piece)) for at, piece in chunks(iter([speech]), rate=200, longest=800)]
    [(0, 730), (730, 270)]
    """
    held, start = np.zeros(0, np.float32), 0
    # With a quarter more at hand, no cut leaves a last piece too short to be understood.
    enough = longest + longest // 4
    while True:
        held = _fill(held, blocks, enough)
        if len(held) <= longest:
            yield start, held
            return
        at = cut_point(held, rate, longest)
        yield start, held[:at].copy()
        held, start = held[at:], start + at


def cut_point(samples: Samples, rate: int, longest: int) -> int:
    """Where to cut audio that is longer than ``longest``: the middle of a pause.

    The pause is sought in the second half of the first ``longest`` samples, and so that a quarter
    of ``longest`` remains behind it.
    """
    first = min(longest // 2, len(samples) - longest // 4 - 1)
    last = min(longest, len(samples) - longest // 4)
    return first + _middle_of_pause(samples[first:last], hop_of(rate))


def _middle_of_pause(samples: Samples, hop: int) -> int:
    """The middle of the longest stretch that is about as quiet as the quietest."""
    power = np.mean(in_hops(samples, hop) ** 2, axis=1)
    if len(power) < 2 * _PAUSE_HOPS:
        return len(samples) // 2
    loudness = np.convolve(power, np.full(_PAUSE_HOPS, 1 / _PAUSE_HOPS), mode="valid")
    quiet = loudness <= _ABOUT_AS_QUIET * loudness.min()
    edges = np.flatnonzero(np.diff(np.concatenate([[False], quiet, [False]]).astype(np.int8)))
    starts, ends = edges[::2], edges[1::2]
    longest = int(np.argmax(ends - starts))
    # A value stands for the hops from its own on: the stretch is longer by a pause less one.
    return int(starts[longest] + ends[longest] - 1 + _PAUSE_HOPS) * hop // 2


def _fill(held: Samples, blocks: Iterator[Samples], needed: int) -> Samples:
    """Read until there is more than needed, or no more."""
    parts, count = [held], len(held)
    while count <= needed:
        block = next(blocks, None)
        if block is None:
            break
        parts.append(block)
        count += len(block)
    return np.concatenate(parts)


def spoken(blocks: Iterator[Samples], *, rate: int, longest: int) -> Iterator[tuple[int, Samples]]:
    """Cut audio that may be just being spoken, as soon as a pause comes.

    Arguments and what is yielded are those of :func:`chunks`.
    """
    loudness = Loudness(rate)
    shortest = min(longest, round(_SPOKEN_SECONDS * rate))
    pause = round(_PAUSE_SECONDS * rate)
    held, start = np.zeros(0, np.float32), 0
    while True:
        # So much is at hand that a piece can be cut at its end.
        before = len(held)
        held = _fill(held, blocks, max(before, pause))
        if len(held) == before:
            yield start, held
            return
        while len(held) > longest + longest // 4:
            at = cut_point(held, rate, longest)
            yield start, held[:at].copy()
            held, start = held[at:], start + at
        if len(held) >= shortest and loudness.pauses(held, pause):
            at = len(held) - pause // 2
            yield start, held[:at].copy()
            held, start = held[at:], start + at
