"""What single stages of the model return."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic

from granite_gguf.arrays import Batch


@dataclass(frozen=True)
class EncoderResult(Generic[Batch]):
    """What the encoder makes of T frames; of a batch, each is one.

    Attributes:
        captured: float32 ``(T, captures * D)``, the captured layers side by side.
        final: float32 ``(T, D)``, the final state.
        blank: float32 ``(T,)``, the blank's probability at the self-conditioning layer.
        taps: further stage outputs that were asked for, by name.
    """

    captured: Batch
    final: Batch
    blank: Batch
    taps: Mapping[str, Batch] = field(default_factory=dict)


@dataclass(frozen=True)
class TokenResult(Generic[Batch]):
    """What a head makes of its rows; of a batch, each is one.

    Attributes:
        ids: int64 ``(rows,)``, the best id of each.
        taps: further outputs that were asked for, by name.
    """

    ids: Batch
    taps: Mapping[str, Batch] = field(default_factory=dict)
