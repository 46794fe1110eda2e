"""One pass of the non-autoregressive model: what is said in pieces of audio, and when.

samples → log-mel frames → encoder ┬→ first hypothesis → with slots ┐
                                   └→ projector → audio tokens ─────┴→ editor → text
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from granite_gguf.arrays import FloatArray, IntArray, Rows
from granite_gguf.nar.decoding import edited_tokens, insert_slots, keep_tokens
from granite_gguf.nar.hotwords import REPLACING, with_terms
from granite_gguf.nar.spec import HParams
from granite_gguf.nar.stages import BEST_PROBABILITIES, Hearing, Stages
from granite_gguf.passes import Editor, Hotword, Options, Piece, timed
from granite_gguf.sound.features import frame_count
from granite_gguf.stages import characters
from granite_gguf.stages.decoding import confidence, no_speech, run_probabilities
from granite_gguf.stages.passing import silent_segment, sounding_features
from granite_gguf.stages.results import TokenResult
from granite_gguf.stages.shared import BPE_BEST, BPE_TOTALS
from granite_gguf.transcript import Segment
from granite_gguf.words.terms import hotwords, spotted
from granite_gguf.words.times import Heard, time_words

SURE = 0.95
"""A hypothesis none of whose tokens is less probable is not edited, where that is left open."""

_LONG_SECONDS = 60.0  # from here on it is asked first whether there is memory for the editor


def longest_pass(h: HParams, positions: int) -> int:
    """Samples that one pass of so many positions takes if nothing is said: an upper bound."""
    tokens = positions - h.editor.min_edit_length
    frames = (tokens + 1) * h.projector.downsample_rate - 1
    samples = (frames + 1) * h.front_end.stride - 1
    return samples - h.front_end.stride if h.front_end.pad_last_frame else samples


def one_pass(
    model: Stages, pieces: Sequence[Piece], options: Options, *, fast: bool = False
) -> list[Segment | None]:
    """All stages on pieces of one or several recordings, together.

    Each gets what it would get alone; seconds are shared out by its length. Where it may be
    ``fast``, the editor is left out where the hypothesis is sure, unless options tell when.

    Returns:
        A segment of index 0 for each piece, or None where it needs too many positions.

    Raises:
        AudioError: a piece cannot be transcribed.
    """
    if options.editor is None:
        options = replace(options, editor=Editor.AUTO if fast else Editor.ALWAYS)
    mels = [_features(model, piece) for piece in pieces]
    found = [
        None if mel is None or len(mel) else silent_segment(model, piece, options)
        for mel, piece in zip(mels, pieces, strict=True)
    ]
    sounding = {n: mel for n, mel in enumerate(mels) if mel is not None and len(mel)}
    if sounding:
        together = [pieces[n] for n in sounding]
        mel = Rows.of(list(sounding.values()))
        segments = _transcribe(model, together, mel, options)
        for n, segment in zip(sounding, segments, strict=True):
            found[n] = segment
    return found


def _features(model: Stages, piece: Piece) -> FloatArray | None:
    """Log-mel frames; none where nothing sounds, and None where they are too many."""
    h, samples = model.hparams, piece.samples
    frames = frame_count(h.front_end, len(samples))
    # What the editor could not take whatever was said does not reach the encoder.
    if frames // h.projector.downsample_rate + h.editor.min_edit_length > model.max_positions:
        return None
    if len(samples) > _LONG_SECONDS * h.front_end.sample_rate:
        model.check_room(frames)
    return sounding_features(model, piece)


def _transcribe(
    model: Stages, pieces: Sequence[Piece], mel: Rows, options: Options
) -> list[Segment | None]:
    """From log-mel frames ``(T, 160)`` of each piece, T at least 1, to its text."""
    h = model.hparams
    always, timing = options.editor is Editor.ALWAYS, options.word_times
    asked = options.wish.hotwords
    taps = {"pooled", BPE_TOTALS} if timing else set()
    taps |= {BPE_BEST} if asked or not always else set()
    taps |= {characters.LOGITS} if asked else set()

    with model.hear(mel, frozenset(taps), partial(timed, pieces=pieces)) as hearing:
        head = hearing.head
        with timed("hypothesis", pieces):
            hypothesis = model.read_hypothesis(head.ids)
        kept: dict[int, FloatArray] = {}
        if asked:
            with timed("hotwords", pieces):
                hypothesis, kept = _with_terms(model, hearing, hypothesis, asked)
        every = range(len(pieces))
        sure = {} if always else {n: _sureness(h, head, n) for n in every}
        edited = [n for n in every if _is_edited(options.editor, sure.get(n))]
        texts = _edit(model, pieces, mel.counts, hearing, hypothesis, kept, edited)
    found: list[Segment | None] = []
    for n, piece in enumerate(pieces):
        if n in edited and n not in texts:
            found.append(None)
            continue
        tokens, probabilities = texts.get(n) or (hypothesis[n], _heard(sure[n], hypothesis[n]))
        segment = replace(
            silent_segment(model, piece, options),
            text=model.detokenize(tokens),
            hypothesis=model.detokenize(hypothesis[n]),
            token_ids=tuple(int(i) for i in tokens),
            confidence=confidence(probabilities if n in texts else sure[n]),
            no_speech_prob=no_speech(hearing.blank[n]),
        )
        if timing:
            with timed("words", [piece]):
                heard = Heard(
                    mel[n],
                    hearing.blank[n],
                    h.hypothesis.pooling_window,
                    h.hypothesis.blank_id,
                    partial(model.bpe_posteriors, head.taps["pooled"][n], head.taps[BPE_TOTALS][n]),
                    h.front_end.stride / h.front_end.sample_rate,
                )
                words = time_words(h.hypothesis, model.tokenizer, tokens, probabilities, heard)
                begin = piece.start / h.front_end.sample_rate
                segment = replace(segment, words=tuple(word.later(begin) for word in words))
        found.append(segment)
    return found


def _with_terms(
    model: Stages, hearing: Hearing, hypothesis: Rows, terms: tuple[Hotword, ...]
) -> tuple[Rows, dict[int, FloatArray]]:
    """The hypotheses with terms where these are heard; of those what is to be kept."""
    h, known = model.hparams.hypothesis, characters.labels_of(model.file)
    head = hearing.head
    wanted, parts, kept = hotwords(known, terms, REPLACING), list(hypothesis), {}
    for n, logits in enumerate(hearing.logits or ()):
        spots, best = spotted(wanted, known, logits, characters.BLANK), head.taps[BPE_BEST][n]
        found = with_terms(h, model.tokenizer, head.ids[n], wanted, spots, best)
        if found is not None:
            parts[n], kept[n] = found.tokens, found.sure
    return Rows.of(parts), kept


def _edit(
    model: Stages,
    pieces: Sequence[Piece],
    frames: Sequence[int],
    hearing: Hearing,
    hypothesis: Rows,
    kept: Mapping[int, FloatArray],
    which: Sequence[int],
) -> dict[int, tuple[IntArray, FloatArray]]:
    """The edited tokens of some pieces, those that fit, and their probabilities.

    What is to be kept of a hypothesis stays as it is.
    """
    editor, rate = model.hparams.editor, model.hparams.projector.downsample_rate
    slots = hypothesis.each(lambda tokens: insert_slots(editor, tokens))
    needed = [t // rate + n for t, n in zip(frames, slots.counts, strict=True)]
    fit = [n for n in which if needed[n] <= model.max_positions]
    if not fit:
        return {}
    fitting = [pieces[n] for n in fit]
    edited = model.edit(hearing, fit, slots.some(fit), partial(timed, pieces=fitting))
    found = {}
    for at, n in enumerate(fit):
        ids, best = edited.ids[at], edited.taps[BEST_PROBABILITIES][at]
        if n in kept:
            ids, best = keep_tokens(editor, ids, best, hypothesis[n], kept[n])
        sure = run_probabilities(ids, best, editor.eos_token_id)
        found[n] = (edited_tokens(editor, ids), sure)
    return found


def _sureness(h: HParams, head: TokenResult[Rows], n: int) -> FloatArray:
    """The probabilities of what the encoder hears in a piece, one for each token of its head."""
    return run_probabilities(head.ids[n], head.taps[BPE_BEST][n], h.hypothesis.blank_id)


def _is_edited(editing: Editor | None, sure: FloatArray | None) -> bool:
    if editing is Editor.AUTO and sure is not None:
        return not len(sure) or float(sure.min()) < SURE
    return editing is not Editor.NEVER


def _heard(sure: FloatArray, tokens: IntArray) -> FloatArray:
    """A probability for each token of a hypothesis.

    Where its text was tokenised anew, tokens are others than those that were heard: each gets the
    least of them.
    """
    if len(sure) == len(tokens):
        return sure
    return np.full(len(tokens), sure.min(initial=1.0), np.float32)
