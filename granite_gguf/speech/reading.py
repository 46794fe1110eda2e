"""What an answer says: its text without tags, its words, and who says them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from granite_gguf.arrays import IntArray
from granite_gguf.speech.greedy import Said
from granite_gguf.speech.tags import speakers, timed_words
from granite_gguf.tokenizer import SpeechTokenizer
from granite_gguf.transcript import Turn, Word
from granite_gguf.words.times import Heard, Spellings, place_spelt

_WORD = re.compile(r"\S+")


@dataclass(frozen=True)
class Written:
    """A word of an answer.

    Attributes:
        text: what it reads.
        tokens: those in which some of it stands.
        probability: of the least sure of them.
        speaker: who says it.
    """

    text: str
    tokens: IntArray
    probability: float
    speaker: str | None = None


@dataclass
class Answer:
    """The tokens of an answer, and the text that they are.

    Attributes:
        speaker: who speaks when it begins, where it continues another one.
    """

    tokenizer: SpeechTokenizer
    said: Said
    speaker: str | None = None
    text: str = field(init=False)

    def __post_init__(self) -> None:
        self.text = self.tokenizer.decode(self.said.tokens)
        self._ends = np.array(self.tokenizer.ends(self.said.tokens), np.int64)

    def shown(self, *, tagged: bool) -> str:
        """The text, without tags that tell times; with who speaks, where he goes on speaking."""
        if not tagged:
            text = self.text.strip()
            goes_on = self.speaker and any(p.start == 0 for p in speakers(text, self.speaker))
            return f"[{self.speaker}]: {text}" if goes_on else text
        return " ".join(self.text[w.start : w.end] for w in timed_words(self.text, 0.0))

    def turns(self) -> tuple[Turn, ...]:
        """Who says what."""
        return tuple(
            Turn(part.speaker, self.text[part.start : part.end].strip())
            for part in speakers(self.text, self.speaker)
        )

    def words(self) -> list[Written]:
        """The words that somebody says, in order; tags of speakers are none."""
        return [
            replace(self.word(word.start(), word.end()), speaker=part.speaker)
            for part in speakers(self.text, self.speaker)
            for word in _WORD.finditer(self.text, part.start, part.end)
        ]

    def word(self, start: int, end: int) -> Written:
        """The word of some characters of the text."""
        first = int(np.searchsorted(self._ends, start, side="right"))
        last = int(np.searchsorted(self._ends, end, side="left"))
        tokens = np.array(self.said.tokens[first : last + 1], np.int64)
        sure = self.said.probabilities[first : last + 1]
        return Written(self.text[start:end], tokens, min(sure))


def tagged_words(answer: Answer, seconds: float) -> list[Word]:
    """The words of a text with tags behind them, timed by these, in audio of some seconds."""
    found = []
    for tag in timed_words(answer.text, seconds):
        word = answer.word(tag.start, tag.end)
        found.append(
            Word(word.text, tag.begin_seconds, tag.end_seconds, word.probability, tag.told)
        )
    return found


def even_words(answer: Answer, seconds: float) -> list[Word]:
    """The words of a text, such as a translation, whose times nothing tells, spread over some
    seconds.
    """
    words = answer.words()
    ends = np.cumsum([len(word.text) + 1 for word in words]) if words else np.zeros(0)
    times = [0.0, *(seconds * ends / ends[-1])] if words else []
    return [
        Word(word.text, float(times[n]), float(times[n + 1]), word.probability, False, word.speaker)
        for n, word in enumerate(words)
    ]


def placed_words(
    answer: Answer, spell: Callable[[str, IntArray], Spellings], heard: Heard
) -> list[Word]:
    """The words of a text where the encoder heard them.

    Args:
        answer: the text.
        spell: the ways in which the encoder may have written a word, from its text and tokens.
        heard: what tells where they are.
    """
    words = answer.words()
    placed = place_spelt(
        [word.text for word in words],
        [spell(word.text, word.tokens) for word in words],
        [word.probability for word in words],
        heard,
    )
    return [replace(at, speaker=word.speaker) for at, word in zip(placed, words, strict=True)]
