"""How far two computations of the same stage are apart."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np
import numpy.typing as npt

from granite_gguf.arrays import AnyArray

NEAR_ZERO = 1e-6  # of the longest row: what is shorter is rounding, its direction means nothing

_ROWS_AT_ONCE = 64


@dataclass(frozen=True)
class Comparison:
    """One stage's output against an expected one, row by row.

    Attributes:
        rows: how many rows were compared.
        cos_min: the lowest cosine of a row, over its features.
        cos_mean: the mean of the rows' cosines.
        worst_row: the row with the lowest cosine.
        max_abs: the largest difference of two numbers.
        length_drift: the largest difference of two rows' lengths, relative to the expected one;
            cosines do not see it.
    """

    rows: int
    cos_min: float
    cos_mean: float
    worst_row: int
    max_abs: float
    length_drift: float


@dataclass(frozen=True)
class Judgement:
    """Whether an output is close enough to the expected one, and why not.

    Attributes:
        comparison: of the rows whose direction means something; None where there is none.
        passed: whether every row is as close as asked.
        notes: what a reader must know beside the figures: each names its rows.
        cosines: one per row, NaN where a row is zero or not finite.
    """

    comparison: Comparison | None
    passed: bool
    notes: tuple[str, ...]
    cosines: npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Rows:
    """Figures of each row, all ``(rows,)``: lengths, scalar product and largest difference."""

    actual: npt.NDArray[np.float64]
    expected: npt.NDArray[np.float64]
    product: npt.NDArray[np.float64]
    max_abs: npt.NDArray[np.float64]

    @property
    def cosines(self) -> npt.NDArray[np.float64]:
        with np.errstate(invalid="ignore", divide="ignore"):
            cosines: npt.NDArray[np.float64] = self.product / (self.actual * self.expected)
        return cosines


def _measure(actual: AnyArray, expected: AnyArray) -> _Rows:
    """Measure in float64, some rows at a time: logits of a long text fill gigabytes in it."""
    figures = np.zeros((4, len(actual)))
    for start in range(0, len(actual), _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        a, b = actual[part].astype(np.float64), expected[part].astype(np.float64)
        with np.errstate(invalid="ignore", over="ignore"):
            figures[:, part] = (
                np.linalg.norm(a, axis=-1),
                np.linalg.norm(b, axis=-1),
                (a * b).sum(axis=-1),
                np.abs(a - b).max(axis=-1),
            )
    return _Rows(*figures)


def row_cosines(a: AnyArray, b: AnyArray) -> npt.NDArray[np.float64]:
    """Cosine of each row of ``(rows, features)`` with its counterpart; NaN where one is zero."""
    return _measure(a, b).cosines


def compare(actual: AnyArray, expected: AnyArray) -> Comparison:
    """Compare two outputs ``(rows, features)`` with at least one row.

    Raises:
        ValueError: the shapes differ or there are no rows.
    """
    if actual.shape != expected.shape or not actual.size:
        raise ValueError(f"cannot compare {actual.shape} with {expected.shape}")
    return _summarise(_measure(actual, expected), np.arange(len(actual)))


def _summarise(rows: _Rows, chosen: npt.NDArray[np.intp]) -> Comparison:
    cosines = rows.cosines[chosen]
    worst = int(np.where(np.isnan(cosines), -2.0, cosines).argmin())
    with np.errstate(invalid="ignore", divide="ignore"):
        drift = np.abs(rows.actual[chosen] / rows.expected[chosen] - 1)
    return Comparison(
        rows=len(chosen),
        cos_min=float(cosines[worst]),
        cos_mean=float(cosines.mean()),
        worst_row=int(chosen[worst]),
        max_abs=float(rows.max_abs[chosen].max()),
        length_drift=float(drift.max()),
    )


def length_tolerance(min_cosine: float) -> float:
    """The relative error of a row's length that matches a cosine.

    Of two rows of one length, the difference is ``sqrt(2 - 2 cos)`` of it: a row may be as far off
    in length as it may be in direction.
    """
    return sqrt(max(0.0, 2.0 - 2.0 * min_cosine))


def judge(actual: AnyArray, expected: AnyArray, min_cosine: float) -> Judgement:
    """Judge ``(rows, features)`` row by row, direction and length.

    Rows near zero on both sides agree and are left out of the cosines; a row near zero on one side
    only, a number that is not finite and a difference of shapes fail. All are named.
    """
    if actual.shape != expected.shape:
        problem = f"the shape is {_shape(actual)}, the reference's {_shape(expected)}"
        return Judgement(None, False, (problem,), np.zeros(0))
    rows = _measure(actual, expected)
    finite = [np.isfinite(lengths) for lengths in (rows.actual, rows.expected)]
    zero = [_near_zero(lengths) for lengths in (rows.actual, rows.expected)]
    both_zero = zero[0] & zero[1]
    failing = [
        _note("not finite in", ~finite[0]),
        _note("the reference is not finite in", ~finite[1]),
        _note("near zero, unlike the reference, in", zero[0] & ~zero[1]),
        _note("the reference alone is near zero in", zero[1] & ~zero[0]),
    ]
    rest = [_note("near zero on both sides, without a direction, in", both_zero)]
    judged = np.flatnonzero(~both_zero)
    if not len(judged):
        notes = tuple(filter(None, [*failing, *rest])) or ("there are no rows",)
        return Judgement(None, not any(failing), notes, rows.cosines)
    comparison = _summarise(rows, judged)
    limit = length_tolerance(min_cosine)
    if not any(failing) and not comparison.length_drift <= limit:
        failing.append(
            f"a row's length differs by {comparison.length_drift:.2%}, allowed are {limit:.2%}"
        )
    passed = not any(failing) and comparison.cos_min >= min_cosine  # NaN fails
    return Judgement(comparison, passed, tuple(filter(None, [*failing, *rest])), rows.cosines)


def _near_zero(lengths: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    longest = lengths[np.isfinite(lengths)].max(initial=0.0)
    near: npt.NDArray[np.bool_] = lengths <= NEAR_ZERO * longest
    return near


def _note(what: str, rows: npt.NDArray[np.bool_]) -> str:
    """What is so in which rows; empty where in none."""
    numbers = np.flatnonzero(rows).tolist()
    if not numbers:
        return ""
    shown = ", ".join(map(str, numbers[:5]))
    more = f" and {len(numbers) - 5} more" if numbers[5:] else ""
    return f"{what} row{'s' if numbers[1:] else ''} {shown}{more}"


def _shape(array: AnyArray) -> str:
    return " x ".join(map(str, array.shape))
