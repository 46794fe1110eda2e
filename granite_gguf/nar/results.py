"""What single stages of the model return."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from granite_gguf.errors import InputError

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class EncoderResult:
    """What the encoder makes of T frames.

    Attributes:
        captured: ``(T, captures * D)``, the captured layers side by side.
        final: ``(T, D)``, the final state.
        blank: ``(T,)``, the blank's probability at the self-conditioning layer.
        taps: further stage outputs that were asked for, by name.
    """

    captured: FloatArray
    final: FloatArray
    blank: FloatArray
    taps: Mapping[str, FloatArray] = field(default_factory=dict)


@dataclass(frozen=True)
class TokenResult:
    """Best ids of a head, one per row, and the taps that were asked for."""

    ids: IntArray
    taps: Mapping[str, FloatArray] = field(default_factory=dict)


def check_rows(name: str, array: FloatArray, width: int) -> None:
    """Refuse a stage's input that is no float32 matrix ``(T, width)``, T at least 1.

    Raises:
        InputError: it is not.
    """
    if array.ndim != 2 or array.shape[1] != width or not len(array):
        raise InputError(f"{name} has the shape {array.shape}, expected (T, {width}) with T > 0")
    if array.dtype != np.float32:
        raise InputError(f"{name} is {array.dtype}, expected float32")


def rows(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A matrix without ggml's two outer dimensions of length 1."""
    return array.reshape(array.shape[-2:])


Array = TypeVar("Array", bound=npt.NDArray[Any])


def joined(arrays: Sequence[Array]) -> Array:
    """Arrays one after another; a single one is itself."""
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)  # type: ignore[return-value]


def divided(array: Array, counts: Sequence[int]) -> list[Array]:
    """Rows of an array in parts of these lengths."""
    parts: list[Any] = np.split(array, np.cumsum(counts)[:-1])
    return parts


def joined_tokens(parts: Sequence[TokenResult]) -> TokenResult:
    """Rows of parts, one after another."""
    return TokenResult(
        joined([part.ids for part in parts]),
        {name: joined([part.taps[name] for part in parts]) for name in parts[0].taps},
    )


def divided_tokens(result: TokenResult, counts: Sequence[int]) -> list[TokenResult]:
    """Rows in parts of these lengths."""
    taps = {name: divided(array, counts) for name, array in result.taps.items()}
    return [
        TokenResult(ids, {name: arrays[n] for name, arrays in taps.items()})
        for n, ids in enumerate(divided(result.ids, counts))
    ]
