"""What single stages of the model return."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

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
