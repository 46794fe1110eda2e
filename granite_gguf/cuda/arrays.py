"""Arrays of a GPU, and what several of them are together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Array = Any
"""An array of the device."""


@dataclass(frozen=True)
class Norm:
    """A layer norm, or a root mean square norm where there is no shift.

    Attributes:
        gain: float32 ``(width,)``.
        shift: like it, or None.
        eps: added to the variance.
    """

    gain: Array
    shift: Array | None
    eps: float


@dataclass(frozen=True)
class Heads:
    """Where the heads of some rows lie: the columns from one on, of an array ``(rows, width)``.

    Attributes:
        array: float16.
        column: the first head's first.
        rows: of each recording.
        head: the width of a head, a multiple of 32.
    """

    array: Array
    column: int
    rows: int
    head: int
