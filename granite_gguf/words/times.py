"""Times and probabilities of a transcript's words, from what the stages computed.

    final tokens → words → their tokens in the encoder's BPE posteriors → windows → seconds

A window pools 4 frames of 20 ms; :mod:`granite_gguf.words.boundaries` finds the frames of a word.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from granite_gguf.arrays import FloatArray, IntArray
from granite_gguf.spec.hparams import BpeHead
from granite_gguf.tokenizer import SpeechTokenizer
from granite_gguf.transcript import Word
from granite_gguf.words.alignment import align
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
"""Log-probabilities ``(windows, n)`` of some ids of the BPE head."""


def time_words(
    h: BpeHead,
    tokenizer: SpeechTokenizer,
    tokens: IntArray,
    probabilities: FloatArray,
    mel: FloatArray,
    blank: FloatArray,
    posteriors: Posteriors,
    frame_seconds: float,
) -> tuple[Word, ...]:
    """The words of a transcript with their times, in seconds from the start of the frames.

    Args:
        h: the hypothesis head's numbers.
        tokenizer: the model's.
        tokens: ``(n,)``, the transcript's.
        probabilities: ``(n,)``, theirs.
        mel: ``(T, bands)``, the front end's features.
        blank: ``(T,)``, the blank's probability at the character head.
        posteriors: tells what the BPE head says.
        frame_seconds: from one frame to the next.
    """
    words = split_words(tokenizer, tokens)
    spellings = [_spellings(h, tokenizer, word, tokens) for word in words]
    columns = np.unique(np.concatenate([way for ways in spellings for way in ways] or [tokens]))
    heard = posteriors(np.concatenate([[h.blank_id], columns]))
    silent, emitted = heard[:, 0], heard[:, 1:]
    best = emitted.max(axis=0, initial=-np.inf)
    chosen = []
    for ways in spellings:
        places = [np.searchsorted(columns, way) for way in ways]
        chosen.append(max(places, key=lambda place: float(best[place].mean())))
    spans = align(silent, emitted, [[int(i) for i in place] for place in chosen])
    times = place_words(spans, blank, mel, h.pooling_window)
    return tuple(
        Word(
            text=word.text,
            start=first * frame_seconds,
            end=last * frame_seconds,
            probability=float(probabilities[word.tokens].min()),
            aligned=span is not None,
        )
        for word, span, (first, last) in zip(words, spans, times, strict=True)
    )


def _spellings(
    h: BpeHead, tokenizer: SpeechTokenizer, word: WrittenWord, tokens: IntArray
) -> list[IntArray]:
    """The ways in which the encoder may have written a word, as ids of its BPE head.

    The editor adds capitals and punctuation that the hypothesis may lack, so the word is looked
    for as it stands and without them.
    """
    lower = word.text.lower()
    bare = "".join(c for c in lower if c.isalnum() or c in "'’-")
    ways = [tokens[word.tokens]]
    for text in (lower, bare):
        ways += [tokenizer.encode(f" {text}"), tokenizer.encode(text)]
    shifted = [way + h.id_shift for way in ways if len(way)]
    usable = [way for way in shifted if way.max() < h.bpe_vocab and h.blank_id not in way]
    unique = {way.tobytes(): way for way in usable}
    return list(unique.values())
