"""Breaks timed words into subtitles of at most two lines of 42 characters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from granite_gguf.transcript import Transcript, Word

LINE = 42  # characters, the usual limit of broadcasters
LONGEST = 7.0  # seconds a subtitle stays
PAUSE = 1.0  # seconds of silence that end a subtitle
SENTENCE_ENDS = (".", "?", "!", "…")


@dataclass(frozen=True)
class Cue:
    """A subtitle.

    Attributes:
        start: when it appears, in milliseconds.
        end: when it goes; after ``start`` and not after the next one's start.
        lines: one or two.
    """

    start: int
    end: int
    lines: tuple[str, ...]


def cues(transcript: Transcript) -> list[Cue]:
    """The subtitles of a transcript whose words were timed.

    A subtitle ends where a sentence or a pause does, when it is full, or after seven seconds.

    >>> from granite_gguf.transcript import Segment
    >>> said = "and so my fellow americans ask not what your country can do for you".split()
    >>> words = [Word(w, i / 2, i / 2 + 0.4, 1.0) for i, w in enumerate(said)]
    >>> segment = Segment(0, 0.0, 7.0, " ".join(said), "", words=tuple(words))
    >>> [cue] = cues(Transcript.of([segment]))
    >>> cue.start, cue.end
    (0, 6900)
    >>> print("\\n".join(cue.lines))
    and so my fellow americans ask not
    what your country can do for you
    """
    made: list[Cue] = []
    for group in _groups(_short(transcript.words)):
        start = round(1000 * min(word.start for word in group))
        end = round(1000 * max(word.end for word in group))
        if made:
            start = max(start, made[-1].start + 1)
            if made[-1].end > start:
                made[-1] = replace(made[-1], end=start)
        lines = _lines([word.text for word in group])
        made.append(Cue(start, max(end, start + 1), lines))
    return made


def _short(words: Iterable[Word]) -> Iterator[Word]:
    """The words, those that no line can hold cut into parts."""
    for word in words:
        count = -(-len(word.text) // LINE)
        if count <= 1:
            yield word
            continue
        step = (word.end - word.start) / count
        for n in range(count):
            yield replace(
                word,
                text=word.text[n * LINE : (n + 1) * LINE],
                start=word.start + n * step,
                end=word.start + (n + 1) * step,
            )


def _groups(words: Iterable[Word]) -> Iterator[list[Word]]:
    group: list[Word] = []
    for word in words:
        if group and _ends(group, word):
            yield group
            group = []
        group.append(word)
    if group:
        yield group


def _ends(group: Sequence[Word], following: Word) -> bool:
    """Whether a subtitle ends before the word that follows it."""
    texts = [word.text for word in group]
    return (
        following.start - group[-1].end >= PAUSE
        or following.end - group[0].start > LONGEST
        or (texts[-1].endswith(SENTENCE_ENDS) and len(" ".join(texts)) > LINE // 2)
        or _split(len(text) for text in [*texts, following.text]) is None
    )


def _lines(texts: Sequence[str]) -> tuple[str, ...]:
    at = _split(len(text) for text in texts)
    if not at:
        return (" ".join(texts),)
    return " ".join(texts[:at]), " ".join(texts[at:])


def _split(lengths: Iterable[int]) -> int | None:
    """Words on the first of two lines as equal as can be; 0 if one does; None if two do not."""
    counts = list(lengths)
    total = sum(counts) + len(counts) - 1
    if total <= LINE:
        return 0
    best = None
    for at in range(1, len(counts)):
        first = sum(counts[:at]) + at - 1
        second = total - first - 1
        if max(first, second) <= LINE and (best is None or max(first, second) < best[0]):
            best = max(first, second), at
    return best[1] if best else None
