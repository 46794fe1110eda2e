"""From the windows in which words are emitted to where the words begin and end.

    windows of the aligned words + blank and loudness of each frame → stretches of frames

CTC emits a token in one window somewhere inside the word, and often the very first one before any
sound. So a word lasts until the next begins or a pause does, and begins where there is sound.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from granite_gguf.arrays import Floats
from granite_gguf.words.alignment import Span

Stretch = tuple[int, int]
"""Frames from the first number to before the second."""

_SPOKEN = 0.5  # of the blank's probability
_DECIBEL = 1 / 40  # in the front end's units: log10 of the power, divided by 4
_BELOW_SPEECH = 35 * _DECIBEL
_ABOVE_NOISE = 10 * _DECIBEL
_LEAST_BELOW_SPEECH = 15 * _DECIBEL
_PAUSE = 4  # frames, 80 ms: the closure of most plosives is shorter


def place_words(
    spans: Sequence[Span | None], blank: Floats, mel: Floats, window: int
) -> list[Stretch]:
    """The frames of each word.

    Args:
        spans: windows of each word, or None where it was not heard.
        blank: ``(T,)``, the blank's probability at the character head.
        mel: ``(T, bands)``, the front end's features.
        window: frames of a window.

    Returns:
        For each word its frames. A word that was not heard has the whole gap between those that
        were.
    """
    pauses = _pauses(mel)
    heard = [None if s is None else _spoken_frames(s, blank < _SPOKEN, window) for s in spans]
    found = [
        None if s is None else _leave_pause(pauses, s, _start(heard, k + 1, len(blank)))
        for k, s in enumerate(heard)
    ]
    placed = list(found)
    for index, stretch in enumerate(found):
        if stretch is None:
            continue
        first, last = stretch
        following = _start(found, index + 1, len(blank))
        # Beside a word that was not heard, only the tokens are certain.
        if index + 1 == len(found) or found[index + 1] is not None:
            last = _end(pauses, last, following)
        if index == 0 or found[index - 1] is not None:
            first = _onset(pauses, _end_before(found, index), first)
        placed[index] = first, max(last, first + 1)
    return _fill_gaps(placed, found, len(blank))


def _spoken_frames(span: Span, spoken: npt.NDArray[np.bool_], window: int) -> Stretch:
    """The frames of a word's windows, from the first spoken one to the last."""
    first, tail = span.first * window, span.last * window
    last = min(tail + window, len(spoken))
    head = np.flatnonzero(spoken[first : first + window])
    end = np.flatnonzero(spoken[tail:last])
    return (
        first + (int(head[0]) if len(head) else 0),
        tail + int(end[-1]) + 1 if len(end) else last,
    )


def _pauses(mel: Floats) -> npt.NDArray[np.bool_]:
    """Which frames belong to a pause: so quiet, for so long."""
    level = mel.max(axis=1)
    noise, speech = np.percentile(level, [5, 95])
    threshold = max(speech - _BELOW_SPEECH, noise + _ABOVE_NOISE)
    quiet = level < min(threshold, speech - _LEAST_BELOW_SPEECH)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], quiet, [False]]).astype(np.int8)))
    for first, last in zip(edges[::2], edges[1::2], strict=True):
        if last - first < _PAUSE:
            quiet[first:last] = False
    result: npt.NDArray[np.bool_] = quiet
    return result


def _leave_pause(pauses: npt.NDArray[np.bool_], stretch: Stretch, following: int) -> Stretch:
    """A word whose tokens come ahead of its sound begins with the sound."""
    first, last = stretch
    if pauses[first] and not pauses[first:following].all():
        first += int(np.argmin(pauses[first:following]))
    return first, max(last, first + 1)


def _end(pauses: npt.NDArray[np.bool_], last: int, following: int) -> int:
    """Where a word ends: at the first pause behind its tokens, or where the next one begins."""
    quiet = np.flatnonzero(pauses[last:following])
    return last + int(quiet[0]) if len(quiet) else max(last, following)


def _onset(pauses: npt.NDArray[np.bool_], before: int, first: int) -> int:
    """Where a word begins: behind the last pause before its tokens, if there is one."""
    quiet = np.flatnonzero(pauses[before:first])
    return before + int(quiet[-1]) + 1 if len(quiet) else first


def _start(found: Sequence[Stretch | None], index: int, frames: int) -> int:
    return next((s[0] for s in found[index:] if s is not None), frames)


def _end_before(found: Sequence[Stretch | None], index: int) -> int:
    return next((s[1] for s in reversed(found[:index]) if s is not None), 0)


def _fill_gaps(
    placed: Sequence[Stretch | None], found: Sequence[Stretch | None], frames: int
) -> list[Stretch]:
    """Give words that were not heard the gap between their neighbours' tokens."""
    filled = []
    for index, stretch in enumerate(placed):
        before = _end_before(found, index)
        filled.append(stretch or (before, max(before, _start(found, index + 1, frames))))
    return filled
