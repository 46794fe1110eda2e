"""Rows of several recordings as one value."""

from __future__ import annotations

import numpy as np
import pytest

from granite_gguf.arrays import Rows, as_rows, in_kind


def test_rows_are_those_of_each_recording() -> None:
    parts = [np.arange(6).reshape(3, 2), np.zeros((0, 2), int), np.full((1, 2), 9)]
    batch = Rows.of(parts)
    assert len(batch) == 3 and batch.counts == (3, 0, 1)
    assert batch.array.tolist() == [[0, 1], [2, 3], [4, 5], [9, 9]]
    for n, (part, found) in enumerate(zip(parts, batch, strict=True)):
        np.testing.assert_array_equal(found, part)
        np.testing.assert_array_equal(batch[n], part)
    batch[2][0, 0] = 7  # a view
    assert batch.array[3].tolist() == [7, 9]


def test_what_becomes_of_each() -> None:
    batch = Rows.of([np.array([1, 2, 3]), np.array([4])])
    doubled = batch.each(lambda part: np.concatenate([part, part]))
    assert (doubled.array.tolist(), doubled.counts) == ([1, 2, 3, 1, 2, 3, 4, 4], (6, 2))
    assert batch.some([1]).array.tolist() == [4] and batch.some([1]).counts == (1,)
    assert batch.some([0, 1]) is batch
    assert batch.like(np.zeros((4, 2))).counts == (3, 1)


def test_rows_must_be_as_many_as_counted() -> None:
    with pytest.raises(ValueError, match=r"4 rows cannot be divided into \(3, 2\)"):
        Rows(np.zeros(4), (3, 2))


def test_an_array_is_answered_with_an_array() -> None:
    one = np.arange(3)
    assert as_rows(one).array is one and as_rows(one).counts == (3,)
    assert in_kind(one, as_rows(one)) is one
    batch = Rows.of([one, one])
    assert as_rows(batch) is batch and in_kind(batch, batch) is batch
