"""Breaks timed words into subtitles of a few short lines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from itertools import chain
from operator import attrgetter

from granite_gguf.errors import InputError
from granite_gguf.transcript import Transcript, Word

LONGEST = 7.0  # seconds a subtitle stays
PAUSE = 1.0  # seconds of silence that end a subtitle
SENTENCE_ENDS = (".", "?", "!", "…", "。", "？", "！")
CLAUSE_ENDS = (*SENTENCE_ENDS, ",", ";", ":", "–", "—", "、")
MIN_WIDTH = 8


@dataclass(frozen=True)
class Shape:
    """How large a subtitle may be; the usual limits of broadcasters.

    Attributes:
        width: characters of a line, at least 8.
        lines: at least 1.

    Raises:
        InputError: one of them is less.
    """

    width: int = 42
    lines: int = 2

    def __post_init__(self) -> None:
        if self.width < MIN_WIDTH:
            raise InputError(
                f"lines of {self.width} characters are asked for, expected {MIN_WIDTH} or more"
            )
        if self.lines < 1:
            raise InputError(f"{self.lines} lines are asked for, expected 1 or more")


@dataclass(frozen=True)
class Cue:
    """A subtitle.

    Attributes:
        start: when it appears, in milliseconds.
        end: when it goes; after ``start`` and not after the next one's start on the same channel.
        lines: one or more.
        speaker: who says it, where that is known.
    """

    start: int
    end: int
    lines: tuple[str, ...]
    speaker: str | None = None


class _Names(Enum):
    """Which subtitles have the speaker's name before the words."""

    NONE = "none"
    CHANGES = "changes"  # where another one speaks than before
    ALL = "all"


USUAL = Shape()


def cues(transcript: Transcript, shape: Shape = USUAL, *, named: bool = True) -> list[Cue]:
    """The subtitles of a transcript whose words were timed.

    A subtitle ends where a sentence or a pause does, where somebody else speaks, when it is full,
    and after seven seconds; the latter two at a comma where there is one in its second half. Where
    ``named``, the speaker's name stands before the words. Those of several channels are in the
    order of their starts, all with the name, and may be shown together.

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
    >>> [cue.lines for cue in cues(Transcript.of([segment]), Shape(width=40, lines=1))]
    [('and so my fellow americans ask not what',), ('your country can do for you',)]
    """
    voices = transcript.voices
    names = _Names.ALL if len(voices) > 1 else _Names.CHANGES
    made = [_cues(words, shape, names if named else _Names.NONE) for words in voices]
    return sorted(chain.from_iterable(made), key=attrgetter("start"))


def _cues(words: Iterable[Word], shape: Shape, names: _Names) -> list[Cue]:
    """Those of words that follow one another."""
    made: list[Cue] = []
    for lead, group in _groups(words, shape, names):
        start = round(1000 * min(word.start for word in group))
        end = round(1000 * max(word.end for word in group))
        if made:
            start = max(start, made[-1].start + 1)
            if made[-1].end > start:
                made[-1] = replace(made[-1], end=start)
        lines = _lines([*lead, *(word.text for word in group)], shape)
        assert lines is not None, "a group is what fits"
        made.append(Cue(start, max(end, start + 1), lines, group[0].speaker))
    return made


def phrases(words: Iterable[Word], shape: Shape = USUAL) -> Iterator[list[Word]]:
    """The words of each subtitle of a shape, those that no line can hold cut into parts."""
    return (group for _, group in _groups(words, shape, _Names.NONE))


def _short(words: Iterable[Word], width: int) -> Iterator[Word]:
    """The words, those that no line can hold cut into parts."""
    for word in words:
        count = -(-len(word.text) // width)
        if count <= 1:
            yield word
            continue
        step = (word.end - word.start) / count
        for n in range(count):
            yield replace(
                word,
                text=word.text[n * width : (n + 1) * width],
                start=word.start + n * step,
                end=word.start + (n + 1) * step,
            )


def _groups(
    words: Iterable[Word], shape: Shape, names: _Names
) -> Iterator[tuple[list[str], list[Word]]]:
    """The words of each subtitle, and what stands before them."""
    lead: list[str] = []
    group: list[Word] = []
    speaker = None
    for word in _short(words, shape.width):
        if group and _is_over(lead, group, word, shape):
            yield lead, group
            group = []
        while group and _is_full(lead, group, word, shape):
            count = _to_punctuation(group)
            yield lead, group[:count]
            group = group[count:]
            if group:
                lead = _lead(group[0], speaker, names, shape)
        if not group:
            lead = _lead(word, speaker, names, shape)
            speaker = word.speaker
        group.append(word)
    if group:
        yield lead, group


def _lead(word: Word, before: str | None, names: _Names, shape: Shape) -> list[str]:
    """What stands before the first word of a subtitle, as far as there is room for it."""
    wanted = names is _Names.ALL or (names is _Names.CHANGES and word.speaker != before)
    if not wanted or word.speaker is None:
        return []
    lead = f"{word.speaker}:".split()
    return [] if _lines([*lead, word.text], shape) is None else lead


def _is_over(lead: Sequence[str], group: Sequence[Word], following: Word, shape: Shape) -> bool:
    """Whether a subtitle has said what it has to, before the word that follows it."""
    texts = [*lead, *(word.text for word in group)]
    return (
        following.speaker != group[-1].speaker
        or following.start - group[-1].end >= PAUSE
        or (texts[-1].endswith(SENTENCE_ENDS) and len(" ".join(texts)) > shape.width // 2)
    )


def _is_full(lead: Sequence[str], group: Sequence[Word], following: Word, shape: Shape) -> bool:
    """Whether there is no room, or no time, for the word that follows a subtitle."""
    texts = [*lead, *(word.text for word in group), following.text]
    return following.end - group[0].start > LONGEST or _lines(texts, shape) is None


def _to_punctuation(group: Sequence[Word]) -> int:
    """How many words stay in a full subtitle: up to a comma in its second half, or all."""
    whole = sum(len(word.text) for word in group)
    for count in range(len(group) - 1, 0, -1):
        kept = group[:count]
        if 2 * sum(len(word.text) for word in kept) < whole:
            break
        if kept[-1].text.endswith(CLAUSE_ENDS):
            return count
    return len(group)


def _lines(texts: Sequence[str], shape: Shape) -> tuple[str, ...] | None:
    """The fewest lines that hold the words, as equal as can be; None if the shape does not."""
    count = len(_filled(texts, shape.width))
    if count > shape.lines:
        return None
    # The narrowest width that needs no more lines makes the longest line as short as can be.
    widest = max(map(len, texts))
    width = next(w for w in range(widest, shape.width + 1) if len(_filled(texts, w)) == count)
    return _filled(texts, width)


def _filled(texts: Sequence[str], width: int) -> tuple[str, ...]:
    """Lines filled from the last one up, so that the first is the one with room to spare."""
    lines = [texts[-1]]
    for text in reversed(texts[:-1]):
        if len(text) + 1 + len(lines[-1]) <= width:
            lines[-1] = f"{text} {lines[-1]}"
        else:
            lines.append(text)
    return tuple(reversed(lines))
