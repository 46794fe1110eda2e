"""The tags that the plus models write into a text: who speaks, and when a word ends.

    "[Speaker 1]: so ask [Speaker 2]: what"  → who says which characters
    "so [T:45] _ [T:60] ask[T:82]"           → words with where they begin and end

Words may follow one another without a space. A time is in hundredths of a second, and is told
without its thousands: it grows by another thousand where it would go back. A time that would so
lie far behind the audio's end went back by mistake, and tells nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_SPEAKER = re.compile(r"\[Speaker (\d+)\]:?")
_TIME = re.compile(r"\[T:(\d+)\]")
_WORD = re.compile(r"\S+")
_SILENCE = "_"
_ROUND = 1000  # hundredths of a second, after which times begin anew


@dataclass(frozen=True)
class Spoken:
    """Characters of a text that one speaker says.

    Attributes:
        speaker: ``Speaker 1``, or None before the first tag.
        start: the first character's number.
        end: the number behind the last.
    """

    speaker: str | None
    start: int
    end: int


@dataclass(frozen=True)
class Tagged:
    """A word with the stretch that its tag tells.

    Attributes:
        start: its first character's number in the text.
        end: the number behind its last character.
        begin_seconds: where it begins: where what stands before it ends.
        end_seconds: where it ends.
        told: whether it has a tag of its own; several words before one tag share its stretch, and
            a last one without a tag goes on to the end.
    """

    start: int
    end: int
    begin_seconds: float
    end_seconds: float
    told: bool


def last_speaker(text: str) -> str | None:
    """Who speaks at the end of a text.

    >>> last_speaker("[Speaker 1]: so [Speaker 2]: no"), last_speaker("so")
    ('Speaker 2', None)
    """
    numbers = _SPEAKER.findall(text)
    return f"Speaker {numbers[-1]}" if numbers else None


def speakers(text: str, speaker: str | None = None) -> list[Spoken]:
    """Who says what, in order, without the tags; at first ``speaker``.

    >>> [(s.speaker, "so [Speaker 2]: no"[s.start : s.end]) for s in speakers("so [Speaker 2]: no")]
    [(None, 'so '), ('Speaker 2', ' no')]
    """
    found, start = [], 0
    for tag in _SPEAKER.finditer(text):
        found.append(Spoken(speaker, start, tag.start()))
        speaker, start = f"Speaker {tag[1]}", tag.end()
    found.append(Spoken(speaker, start, len(text)))
    return [part for part in found if text[part.start : part.end].strip()]


def timed_words(text: str, seconds: float) -> list[Tagged]:
    """The words of a text with their times; silences are left out, but their times count.

    Args:
        text: with tags behind its words.
        seconds: where the audio ends.

    >>> [(w.begin_seconds, w.end_seconds) for w in timed_words("a[T:998] _ [T:20]b [T:31]", 12.0)]
    [(0.0, 9.98), (10.2, 10.31)]
    """
    found: list[Tagged] = []
    at, before, whole = 0, 0.0, 0
    for tag in _TIME.finditer(text):
        hundredths = int(tag[1]) % _ROUND
        wrapped = whole
        while wrapped + hundredths < round(100 * before):
            wrapped += _ROUND
        after = (wrapped + hundredths) / 100
        believed = after < seconds + _ROUND / 200
        if believed:
            whole = wrapped
        else:
            after = before
        found += _share(text, at, tag.start(), before, after, told=believed)
        at, before = tag.end(), after
    found += _share(text, at, len(text), before, max(before, seconds), told=False)
    return found


def _share(
    text: str, start: int, end: int, before: float, after: float, *, told: bool
) -> Iterator[Tagged]:
    """The words between two tags, the last of which the second one belongs to."""
    words = [w for w in _WORD.finditer(text, start, end) if w[0] != _SILENCE]
    step = (after - before) / max(1, len(words))
    for n, word in enumerate(words):
        last = n == len(words) - 1
        yield Tagged(
            word.start(),
            word.end(),
            before + n * step,
            after if last else before + (n + 1) * step,
            told and last,
        )
