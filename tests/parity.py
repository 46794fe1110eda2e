"""Comparison of stage outputs, row by row."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from granite_gguf.parity import row_cosines

# Both sides compute in float32 and differ in the order of summation only; measured on tiny
# checkpoints: 1 - 1e-10 at worst.
MIN_COSINE = 0.999999


def assert_same_rows(
    name: str,
    actual: npt.NDArray[Any],
    expected: npt.NDArray[Any],
    minimum: float = MIN_COSINE,
    length_tolerance: float = 1e-3,
) -> None:
    """Equal shapes, and every row pointing the same way with the same length."""
    assert actual.shape == expected.shape, f"{name}: {actual.shape} is not {expected.shape}"
    if not actual.size:
        return
    assert np.isfinite(actual).all(), f"{name}: not finite"
    cosines = row_cosines(actual, expected)
    assert not np.isnan(cosines).any(), f"{name}: a row is zero, its cosine means nothing"
    worst = int(cosines.argmin())
    assert cosines[worst] >= minimum, f"{name}: row {worst} has cosine {cosines[worst]:.9f}"
    lengths = np.linalg.norm(actual, axis=-1) / np.linalg.norm(expected, axis=-1)
    drift = np.abs(lengths - 1).max()
    assert drift < length_tolerance, f"{name}: lengths differ by {drift:.2g}"
