"""What goes through one pass of a model, whatever its architecture."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum

from granite_gguf.arrays import Samples
from granite_gguf.errors import InputError


@dataclass(frozen=True)
class Piece:
    """Part of a recording.

    Attributes:
        start: its first sample's number in the recording.
        samples: mono, at the model's rate.
        timings: seconds spent on it by stage, which are filled in.
        within: the first sample and the one behind the last of the stretch of the recording that
            it stands for, which is longer where silence is left out; by default its own.
    """

    start: int
    samples: Samples
    timings: dict[str, float] = field(default_factory=dict)
    within: tuple[int, int] | None = None

    @property
    def stretch(self) -> tuple[int, int]:
        """The first sample that it stands for, and the one behind the last."""
        return self.within or (self.start, self.start + len(self.samples))


class Vad(str, Enum):
    """What tells silence from sound."""

    ENERGY = "energy"
    OFF = "off"

    def __str__(self) -> str:
        return self.value

    @classmethod
    def of(cls, name: str) -> Vad:
        """The one of a name.

        Raises:
            InputError: there is none.
        """
        try:
            return cls(name)
        except ValueError:
            choices = " or ".join(repr(str(choice)) for choice in cls)
            raise InputError(f"vad is {name!r}, expected {choices}") from None


@dataclass(frozen=True)
class Options:
    """What to compute.

    Attributes:
        chunk_seconds: the longest piece; by default one pass takes what fits in it, and pieces of
            longer recordings have at most
            :data:`granite_gguf.transcription.recordings.CHUNK_SECONDS`.
        word_times: whether to time words and tell their probabilities.
        vad: what finds the silence that is left out.
    """

    chunk_seconds: float | None = None
    word_times: bool = False
    vad: Vad = Vad.ENERGY


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
