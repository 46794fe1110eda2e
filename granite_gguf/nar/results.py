"""What single stages of the model return."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic

import numpy as np

from granite_gguf.arrays import AnyArray, Batch, Rows, as_rows
from granite_gguf.errors import InputError


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


def checked_rows(name: str, batch: AnyArray | Rows, width: int) -> Rows:
    """A stage's input as a batch of float32 matrices ``(T, width)``, T at least 1.

    Raises:
        InputError: it is something else.
    """
    parts = list(batch) if isinstance(batch, Rows) else [batch]
    for part in parts:
        if part.ndim != 2 or part.shape[1] != width or not len(part):
            raise InputError(f"{name} has the shape {part.shape}, expected (T, {width}) with T > 0")
        if part.dtype != np.float32:
            raise InputError(f"{name} is {part.dtype}, expected float32")
    return as_rows(batch)


def matrix(array: AnyArray) -> AnyArray:
    """A matrix without ggml's two outer dimensions of length 1."""
    return array.reshape(array.shape[-2:])
