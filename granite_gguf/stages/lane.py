"""Passes on one runtime: what the lanes of all architectures have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Generic, TypeVar

from granite_gguf.passes import Options, PassLimits, Piece, check_language
from granite_gguf.placing.kernel_choice import Precision
from granite_gguf.stages.passing import sounding_features
from granite_gguf.stages.shared import SharedStages
from granite_gguf.transcript import Segment

S = TypeVar("S", bound=SharedStages[Any])


class StagesLane(ABC, Generic[S]):
    """Passes of all stages, see :class:`granite_gguf.passes.Lane`.

    Args:
        stages: what a pass consists of.
        limits: how much audio it takes.
        precision: with ``fast`` a pass may look at less.
    """

    def __init__(self, stages: S, limits: PassLimits, precision: Precision) -> None:
        self.stages, self.limits = stages, limits
        self.fast = precision is Precision.FAST

    def check(self, options: Options) -> None:
        """Refuse what the model cannot do, and name what can.

        Raises:
            InputError: it is asked for.
        """
        check_language(options.language, self.stages.hparams.heard)
        self.check_wishes(options)

    @abstractmethod
    def check_wishes(self, options: Options) -> None:
        """The same of what not every architecture can do.

        Raises:
            InputError: it is asked for.
        """

    def prepare(self, piece: Piece) -> Piece:
        """A piece with its features."""
        return replace(piece, features=sounding_features(self.stages, piece))

    @abstractmethod
    def one_pass(self, pieces: Sequence[Piece], options: Options) -> list[Segment | None]:
        """What is said in pieces, computed together."""

    def close(self) -> None:
        """Wait for what is being computed, and compute nothing more."""
        self.stages.close()
