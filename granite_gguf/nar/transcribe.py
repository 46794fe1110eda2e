"""One pass of the non-autoregressive model: what is said in pieces of audio, and when.

samples → log-mel frames → encoder ┬→ first hypothesis → with slots ┐
                                   └→ projector → audio tokens ─────┴→ editor → text
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from granite_gguf.arrays import FloatArray, Rows
from granite_gguf.nar.decoding import edited_probabilities, edited_tokens, insert_slots
from granite_gguf.nar.spec import HParams
from granite_gguf.nar.stages import BEST_PROBABILITIES, Stages
from granite_gguf.passes import Options, Piece, timed
from granite_gguf.sound.features import frame_count
from granite_gguf.stages.passing import silent_segment, sounding_features
from granite_gguf.stages.shared import BPE_TOTALS, NO_TAPS
from granite_gguf.transcript import Segment
from granite_gguf.words.times import Heard, time_words

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
        None if mel is None or len(mel) else silent_segment(model, piece, options)
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
    return sounding_features(model, piece)


def _transcribe(
    model: Stages, pieces: Sequence[Piece], mel: Rows, options: Options
) -> list[Segment | None]:
    """From log-mel frames ``(T, 160)`` of each piece, T at least 1, to its text."""
    found: list[Segment | None] = [None] * len(pieces)
    h = model.hparams
    editor, rate = h.editor, h.projector.downsample_rate
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
            silent_segment(model, pieces[n], options),
            text=model.detokenize(tokens),
            hypothesis=model.detokenize(hypothesis[n]),
            token_ids=tuple(int(i) for i in tokens),
        )
        if options.word_times:
            with timed("words", [pieces[n]]):
                best = edited.taps[BEST_PROBABILITIES][at]
                sure = edited_probabilities(editor, edited.ids[at], best)
                heard = Heard(
                    mel[n],
                    encoded.blank[n],
                    h.hypothesis.pooling_window,
                    h.hypothesis.blank_id,
                    partial(model.bpe_posteriors, head.taps["pooled"][n], head.taps[BPE_TOTALS][n]),
                    h.front_end.stride / h.front_end.sample_rate,
                )
                words = time_words(h.hypothesis, model.tokenizer, tokens, sure, heard)
                begin = pieces[n].start / h.front_end.sample_rate
                segment = replace(segment, words=tuple(word.later(begin) for word in words))
        found[n] = segment
    return found
