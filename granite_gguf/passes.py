"""What goes through one pass of a model, whatever its architecture."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from granite_gguf.arrays import Samples


@dataclass(frozen=True)
class Piece:
    """Part of a recording.

    Attributes:
        start: its first sample's number in the recording.
        samples: mono, at the model's rate.
        timings: seconds spent on it by stage, which are filled in.
    """

    start: int
    samples: Samples
    timings: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Options:
    """What to compute.

    Attributes:
        chunk_seconds: the longest piece; by default one pass takes what fits in it, and pieces of
            longer recordings have at most
            :data:`granite_gguf.transcription.recordings.CHUNK_SECONDS`.
        word_times: whether to time words and tell their probabilities.
    """

    chunk_seconds: float | None = None
    word_times: bool = False


@contextmanager
def timed(stage: str, pieces: Sequence[Piece]) -> Iterator[None]:
    """Share out the seconds that a block takes by the lengths of the pieces."""
    start = time.perf_counter()
    yield
    spent = time.perf_counter() - start
    samples = sum(len(piece.samples) for piece in pieces)
    for piece in pieces:
        share = len(piece.samples) / samples if len(pieces) > 1 else 1.0
        piece.timings[stage] = piece.timings.get(stage, 0.0) + spent * share
