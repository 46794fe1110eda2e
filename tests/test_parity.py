"""The measures of parity, on numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from granite_gguf.parity import compare, row_cosines


def test_cosines_are_taken_over_the_features_of_a_row() -> None:
    a = np.array([[1.0, 0.0], [3.0, 4.0], [0.0, 0.0]])
    b = np.array([[2.0, 0.0], [4.0, 3.0], [1.0, 1.0]])
    cosines = row_cosines(a, b)
    np.testing.assert_allclose(cosines[:2], [1.0, 24 / 25])
    assert np.isnan(cosines[2])


def test_the_worst_row_is_named() -> None:
    a = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], np.float32)
    b = np.array([[1.0, 0.0], [1.0, 1.0], [1.5, 1.5]], np.float32)
    result = compare(a, b)
    assert (result.rows, result.worst_row, result.max_abs) == (3, 1, 1.0)
    assert result.cos_min == pytest.approx(2**-0.5)
    assert result.cos_mean == pytest.approx((2 + 2**-0.5) / 3)


def test_a_zero_row_is_never_averaged_away() -> None:
    result = compare(np.array([[1.0, 0.0], [0.0, 0.0]]), np.array([[1.0, 0.0], [1.0, 0.0]]))
    assert result.worst_row == 1 and np.isnan(result.cos_min) and np.isnan(result.cos_mean)


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="cannot compare"):
        compare(np.zeros((2, 3)), np.zeros((3, 2)))
    with pytest.raises(ValueError, match="cannot compare"):
        compare(np.zeros((0, 3)), np.zeros((0, 3)))
