"""What every pass begins with: features, and what becomes of a piece in which nothing sounds."""

from __future__ import annotations

from typing import Any

from granite_gguf.arrays import FloatArray
from granite_gguf.passes import Options, Piece, timed
from granite_gguf.stages.shared import SharedStages
from granite_gguf.transcript import Segment, Word


def sounding_features(model: SharedStages[Any], piece: Piece) -> FloatArray:
    """Log-mel frames ``(T, 160)``; none where nothing sounds."""
    if piece.features is not None:
        return piece.features
    with timed("features", [piece]):
        mel = model.compute_mel(piece.samples)
    # Where nothing sounds nothing is said, whatever a model would make of it.
    return mel if len(mel) and piece.samples.min() != piece.samples.max() else mel[:0]


def silent_segment(model: SharedStages[Any], piece: Piece, options: Options) -> Segment:
    """The segment of a piece in which nothing is said."""
    rate = model.hparams.front_end.sample_rate
    begin, end = piece.stretch
    words: tuple[Word, ...] | None = () if options.word_times else None
    return Segment(
        0,
        begin / rate,
        end / rate,
        "",
        "",
        timings=piece.timings,
        words=words,
        language=options.language,
        no_speech_prob=1.0,
    )
