"""Times and probabilities of a transcript's words, from what the stages computed.

    final tokens → words → their tokens in the encoder's BPE posteriors → windows → seconds

A window pools 4 frames of 20 ms; :mod:`granite_gguf.words.boundaries` finds the frames of a word.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from granite_gguf.arrays import FloatArray, IntArray
from granite_gguf.spec.hparams import BpeHead
from granite_gguf.tokenizer import SpeechTokenizer
from granite_gguf.transcript import Word
from granite_gguf.words.alignment import Span, align
from granite_gguf.words.boundaries import place_words


@dataclass(frozen=True)
class WrittenWord:
    """A word of the final text: what it reads, and which of the final tokens it is made of."""

    text: str
    tokens: slice


def split_words(tokenizer: SpeechTokenizer, tokens: npt.NDArray[np.integer]) -> list[WrittenWord]:
    """The words of a text, split at white space; their texts are those of the decoded whole."""
    begins = [0]
    for index, token in enumerate(tokens):
        if index and tokenizer.decode([token])[:1].isspace():
            begins.append(index)
    words = []
    for first, last in pairwise([*begins, len(tokens)]):
        text = tokenizer.decode(tokens[first:last])
        if text.strip():
            words.append(WrittenWord(" ".join(text.split()), slice(first, last)))
    return words


Posteriors = Callable[[IntArray], FloatArray]
"""Log-probabilities ``(windows, n)`` of some ids of a head."""

Spellings = Sequence[IntArray]
"""The ways in which the encoder may have written a word, as ids of a head; there may be none."""


@dataclass(frozen=True)
class Heard:
    """What tells where words are.

    Attributes:
        mel: ``(T, bands)``, the front end's features.
        blank: ``(T,)``, the blank's probability at the character head.
        window: frames of a window.
        blank_id: the head's id of nothing.
        posteriors: tells what the head says.
        frame_seconds: from one frame to the next.
    """

    mel: FloatArray
    blank: FloatArray
    window: int
    blank_id: int
    posteriors: Posteriors
    frame_seconds: float


def time_words(
    h: BpeHead,
    tokenizer: SpeechTokenizer,
    tokens: IntArray,
    probabilities: FloatArray,
    heard: Heard,
) -> tuple[Word, ...]:
    """The words of a transcript with their times, in seconds from the start of the frames.

    Args:
        h: the numbers of the head that heard them.
        tokenizer: the model's.
        tokens: ``(n,)``, the transcript's.
        probabilities: ``(n,)``, theirs.
        heard: what tells where they are.
    """
    words = split_words(tokenizer, tokens)
    spellings = [token_spellings(h, tokenizer, word.text, tokens[word.tokens]) for word in words]
    sure = [float(probabilities[word.tokens].min()) for word in words]
    return place_spelt([word.text for word in words], spellings, sure, heard)


def place_spelt(
    texts: Sequence[str],
    spellings: Sequence[Spellings],
    probabilities: Sequence[float],
    heard: Heard,
) -> tuple[Word, ...]:
    """Words where the encoder heard them; those without a spelling lie in the gaps between.

    Args:
        texts: what they read.
        spellings: how the encoder may have written each.
        probabilities: of each.
        heard: what tells where they are.
    """
    there = [n for n, ways in enumerate(spellings) if ways]
    spans: list[Span | None] = [None] * len(texts)
    if there:
        columns = np.unique(np.concatenate([way for n in there for way in spellings[n]]))
        said = heard.posteriors(np.concatenate([[heard.blank_id], columns]))
        silent, emitted = said[:, 0], said[:, 1:]
        best = emitted.max(axis=0, initial=-np.inf)
        chosen = []
        for n in there:
            places = [np.searchsorted(columns, way) for way in spellings[n]]
            chosen.append(max(places, key=lambda place: float(best[place].mean())))
        found = align(silent, emitted, [[int(i) for i in place] for place in chosen])
        for n, span in zip(there, found, strict=True):
            spans[n] = span
    times = place_words(spans, heard.blank, heard.mel, heard.window)
    return tuple(
        Word(
            text=text,
            start=first * heard.frame_seconds,
            end=last * heard.frame_seconds,
            probability=probability,
            aligned=span is not None,
        )
        for text, probability, span, (first, last) in zip(
            texts, probabilities, spans, times, strict=True
        )
    )


def ways_to_write(text: str) -> tuple[str, str, str]:
    """A word as it stands and without what a text has more than its sound: capitals, punctuation.

    >>> ways_to_write("Don't!")
    ("Don't!", "don't!", "don't")
    """
    lower = text.lower()
    return text, lower, "".join(c for c in lower if c.isalnum() or c in "'’-")


def token_spellings(
    h: BpeHead, tokenizer: SpeechTokenizer, text: str, tokens: IntArray
) -> Spellings:
    """Ways to write a word as ids of a BPE head; the first is its tokens in the transcript."""
    _, lower, bare = ways_to_write(text)
    ways = [tokens]
    for way in (lower, bare):
        ways += [tokenizer.encode(f" {way}"), tokenizer.encode(way)]
    shifted = [way + h.id_shift for way in ways if len(way)]
    usable = [way for way in shifted if way.max() < h.bpe_vocab and h.blank_id not in way]
    return _unique(usable)


def character_spellings(ids: Mapping[str, int], text: str) -> Spellings:
    """Ways to write a word as ids of a character head; where it lacks some, those that it has.

    >>> character_spellings({"a": 7, "h": 8}, "Ah!")
    [array([7, 8])]
    >>> character_spellings({"a": 7}, "!")
    []
    """
    ways = [way for way in ways_to_write(text) if all(c in ids for c in way)]
    known = "".join(c for c in ways_to_write(text)[-1] if c in ids)
    return _unique([np.array([ids[c] for c in way]) for way in ways or [known] if way])


def _unique(ways: Sequence[IntArray]) -> Spellings:
    return list({way.tobytes(): way for way in ways}.values())
