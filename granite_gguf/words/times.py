"""Times and probabilities of a transcript's words, from what the stages computed.

    final tokens → words → their tokens in the encoder's BPE posteriors → windows → seconds
    editor's logits → probability of each token → least of a word

A window pools 4 frames of 20 ms; :mod:`granite_gguf.words.boundaries` finds the frames of a word.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from granite_gguf.arrays import FloatArray, IntArray
from granite_gguf.spec.nar import Editor, Hypothesis
from granite_gguf.tokenizer import SpeechTokenizer
from granite_gguf.transcript import Word
from granite_gguf.words.alignment import align
from granite_gguf.words.boundaries import place_words

_ROWS_AT_ONCE = 64  # bounds the memory of a softmax over the vocabulary


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


def token_probabilities(e: Editor, ids: IntArray, logits: FloatArray) -> FloatArray:
    """The editor's probability of each token of the transcript.

    A token comes from a run of equal best ids; the surest row of the run counts.

    Args:
        e: tells eos and the scale of the logits.
        ids: ``(rows,)``, the best id of each text row.
        logits: ``(rows, vocabulary)``, not divided by the scale.
    """
    scale = e.logits_scaling if e.apply_logits_scaling else 1.0
    best = np.empty(len(ids), np.float32)
    for start in range(0, len(ids), _ROWS_AT_ONCE):
        rows = logits[start : start + _ROWS_AT_ONCE] / np.float32(scale)
        rows -= rows.max(axis=1, keepdims=True)
        best[start : start + _ROWS_AT_ONCE] = 1.0 / np.exp(rows, out=rows).sum(axis=1)
    run_starts = np.flatnonzero(np.concatenate([[True], ids[1:] != ids[:-1]]))
    surest: FloatArray = np.maximum.reduceat(best, run_starts)
    kept: FloatArray = surest[ids[run_starts] != e.eos_token_id]
    return kept


HeadSlice = Callable[[int, int], FloatArray]
"""The BPE head's logits ``(windows, bpe_vocab)`` of the frames from one number to another."""


class Posteriors:
    """Log-probabilities of the BPE head, of the blank and of some tokens only.

    Args:
        h: the head's numbers.
        frames: frames T of the audio.
        columns: the ids wanted.
        head: computes the head over a part of the frames.
    """

    windows_at_once = 64  # 100,000 tokens in each

    def __init__(self, h: Hypothesis, frames: int, columns: IntArray, head: HeadSlice) -> None:
        wanted = np.concatenate([[h.blank_id], columns])
        parts = [np.empty((0, len(wanted)), np.float32)]
        step = self.windows_at_once * h.pooling_window
        for start in range(0, frames, step):
            logits = head(start, min(start + step, frames))
            top = logits.max(axis=1, keepdims=True)
            normaliser = top + np.log(np.exp(logits - top).sum(axis=1, keepdims=True))
            parts.append(logits[:, wanted] - normaliser)
        every = np.concatenate(parts)
        self.blank, self.tokens = every[:, 0], every[:, 1:]


def time_words(
    h: Hypothesis,
    tokenizer: SpeechTokenizer,
    tokens: IntArray,
    probabilities: FloatArray,
    mel: FloatArray,
    blank: FloatArray,
    head: HeadSlice,
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
        head: computes the BPE head's logits over a part of the frames.
        frame_seconds: from one frame to the next.
    """
    words = split_words(tokenizer, tokens)
    spellings = [_spellings(h, tokenizer, word, tokens) for word in words]
    columns = np.unique(np.concatenate([way for ways in spellings for way in ways] or [tokens]))
    heard = Posteriors(h, len(blank), columns, head)
    best = heard.tokens.max(axis=0, initial=-np.inf)
    chosen = []
    for ways in spellings:
        places = [np.searchsorted(columns, way) for way in ways]
        chosen.append(max(places, key=lambda place: float(best[place].mean())))
    spans = align(heard.blank, heard.tokens, [[int(i) for i in place] for place in chosen])
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
    h: Hypothesis, tokenizer: SpeechTokenizer, word: WrittenWord, tokens: IntArray
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
