"""One pass of the non-autoregressive model: what is said in pieces of audio, and when.

samples → log-mel frames → encoder ┬→ first hypothesis → with slots ┐
                                   └→ projector → audio tokens ─────┴→ editor → text
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from granite_gguf.arrays import FloatArray, IntArray, Rows
from granite_gguf.nar.decoding import edited_probabilities, edited_tokens, insert_slots
from granite_gguf.nar.spec import HParams
from granite_gguf.nar.stages import BEST_PROBABILITIES, Stages
from granite_gguf.passes import Options, Piece, timed
from granite_gguf.sound.features import frame_count
from granite_gguf.stages.shared import BPE_TOTALS, NO_TAPS
from granite_gguf.transcript import Segment, Word
from granite_gguf.words.times import time_words

_LONG_SECONDS = 60.0  # from here on it is asked first whether there is memory for the editor


def longest_pass(h: HParams) -> int:
    """Samples that one pass takes if nothing is said in them: an upper bound."""
    tokens = h.editor.max_positions - h.editor.min_edit_length
    frames = (tokens + 1) * h.projector.downsample_rate - 1
    samples = (frames + 1) * h.front_end.stride - 1
    return samples - h.front_end.stride if h.front_end.pad_last_frame else samples


def one_pass(model: Stages, pieces: Sequence[Piece], options: Options) -> list[Segment | None]:
    """All stages on pieces of one or several recordings, together.

    Each gets what it would get alone; seconds are shared out by its length.

    Returns:
        A segment of index 0 for each piece, or None where it needs too many positions.

    Raises:
        AudioError: a piece cannot be transcribed.
    """
    mels = [_features(model, piece) for piece in pieces]
    found = [
        None if mel is None or len(mel) else _segment(model, piece, options)
        for mel, piece in zip(mels, pieces, strict=True)
    ]
    sounding = {n: mel for n, mel in enumerate(mels) if mel is not None and len(mel)}
    if sounding:
        together = [pieces[n] for n in sounding]
        segments = _transcribe(model, together, Rows.of(list(sounding.values())), options)
        for n, segment in zip(sounding, segments, strict=True):
            found[n] = segment
    return found


def _features(model: Stages, piece: Piece) -> FloatArray | None:
    """Log-mel frames; none where nothing sounds, and None where they are too many."""
    h, samples = model.hparams, piece.samples
    frames = frame_count(h.front_end, len(samples))
    # What the editor could not take whatever was said does not reach the encoder.
    if frames // h.projector.downsample_rate + h.editor.min_edit_length > h.editor.max_positions:
        return None
    if len(samples) > _LONG_SECONDS * h.front_end.sample_rate:
        model.check_room(frames)
    with timed("features", [piece]):
        mel = model.compute_mel(samples)
    # Where nothing sounds nothing is said, whatever a model would make of it.
    return mel if len(mel) and samples.min() != samples.max() else mel[:0]


def _transcribe(
    model: Stages, pieces: Sequence[Piece], mel: Rows, options: Options
) -> list[Segment | None]:
    """From log-mel frames ``(T, 160)`` of each piece, T at least 1, to its text."""
    found: list[Segment | None] = [None] * len(pieces)
    editor, rate = model.hparams.editor, model.hparams.projector.downsample_rate
    head_taps = frozenset({"pooled", BPE_TOTALS}) if options.word_times else NO_TAPS
    editor_taps = frozenset({BEST_PROBABILITIES}) if options.word_times else NO_TAPS

    with timed("encoder", pieces):
        encoded = model.run_encoder(mel)
    with timed("hypothesis", pieces):
        head = model.run_hypothesis_head(encoded.final, encoded.blank, head_taps)
        hypothesis = model.read_hypothesis(head.ids)
        text_ids = hypothesis.each(lambda tokens: insert_slots(editor, tokens))
    needed = [t // rate + n for t, n in zip(mel.counts, text_ids.counts, strict=True)]
    fit = [n for n, positions in enumerate(needed) if positions <= editor.max_positions]
    if not fit:
        return found
    fitting = [pieces[n] for n in fit]
    with timed("projector", fitting):
        audio_tokens = model.run_projector(encoded.captured.some(fit))
    with timed("editor", fitting):
        edited = model.run_editor(audio_tokens, text_ids.some(fit), editor_taps)

    for at, n in enumerate(fit):
        tokens = edited_tokens(editor, edited.ids[at])
        segment = replace(
            _segment(model, pieces[n], options),
            text=model.detokenize(tokens),
            hypothesis=model.detokenize(hypothesis[n]),
            token_ids=tuple(int(i) for i in tokens),
        )
        if options.word_times:
            with timed("words", [pieces[n]]):
                best = edited.taps[BEST_PROBABILITIES][at]
                sure = edited_probabilities(editor, edited.ids[at], best)
                heard = _Heard(
                    mel[n], encoded.blank[n], head.taps["pooled"][n], head.taps[BPE_TOTALS][n]
                )
                segment = replace(
                    segment, words=_words(model, pieces[n].start, heard, tokens, sure)
                )
        found[n] = segment
    return found


def _segment(model: Stages, piece: Piece, options: Options) -> Segment:
    """The segment of a piece in which nothing is said."""
    rate = model.hparams.front_end.sample_rate
    begin, end = piece.stretch
    words: tuple[Word, ...] | None = () if options.word_times else None
    return Segment(0, begin / rate, end / rate, "", "", timings=piece.timings, words=words)


@dataclass(frozen=True)
class _Heard:
    """What tells where in a piece its words are: of each frame, and of each window."""

    mel: FloatArray
    blank: FloatArray
    pooled: FloatArray
    totals: FloatArray


def _words(
    model: Stages, start: int, heard: _Heard, tokens: IntArray, sure: FloatArray
) -> tuple[Word, ...]:
    """The words of tokens of a piece, with their times in the recording."""
    front = model.hparams.front_end
    words = time_words(
        model.hparams.hypothesis,
        model.tokenizer,
        tokens,
        sure,
        heard.mel,
        heard.blank,
        lambda ids: model.bpe_posteriors(heard.pooled, heard.totals, ids),
        front.stride / front.sample_rate,
    )
    begin = start / front.sample_rate
    return tuple(replace(w, start=begin + w.start, end=begin + w.end) for w in words)
