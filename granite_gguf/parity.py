"""How far two computations of the same stage are apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Comparison:
    """One stage's output against an expected one, row by row.

    Attributes:
        rows: how many rows were compared.
        cos_min: the lowest cosine of a row, over its features.
        cos_mean: the mean of the rows' cosines.
        worst_row: the row with the lowest cosine.
        max_abs: the largest difference of two numbers.
    """

    rows: int
    cos_min: float
    cos_mean: float
    worst_row: int
    max_abs: float


def row_cosines(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Cosine of each row of ``(rows, features)`` with its counterpart; NaN where one is zero."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        cosines: npt.NDArray[np.float64] = (a * b).sum(axis=-1) / norms
    return cosines


def compare(actual: npt.NDArray[Any], expected: npt.NDArray[Any]) -> Comparison:
    """Compare two outputs ``(rows, features)`` with at least one row.

    Raises:
        ValueError: the shapes differ or there are no rows.
    """
    if actual.shape != expected.shape or not actual.size:
        raise ValueError(f"cannot compare {actual.shape} with {expected.shape}")
    cosines = row_cosines(actual, expected)
    worst = int(np.where(np.isnan(cosines), -2.0, cosines).argmin())
    return Comparison(
        rows=len(cosines),
        cos_min=float(cosines[worst]),
        cos_mean=float(cosines.mean()),
        worst_row=worst,
        max_abs=float(np.abs(actual.astype(np.float64) - expected).max()),
    )
