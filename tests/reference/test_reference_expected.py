"""The committed stage outputs are what the reference computes."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

from tests import make_expected


def test_committed_outputs_are_reproduced(capsys: pytest.CaptureFixture[str]) -> None:
    code = make_expected.check()
    assert (code, capsys.readouterr().out) == (0, "")


def test_every_layout_recognises_and_edits_something() -> None:
    """Expected outputs that are all blank would prove little."""
    for layout in make_expected.LAYOUTS:
        longest = make_expected.EXPECTED / f"{layout}-{max(make_expected.SAMPLES)}.npz"
        with np.load(longest) as case:
            assert len(set(case["hypothesis_ids"].tolist())) > 3
            assert case["text"].item().strip()


@pytest.mark.parametrize("width", [3, 600])
@pytest.mark.parametrize("length", [0, 1, 7, 8, 16, 17, 110, 199, 200, 201, 437])
def test_chosen_rows(length: int, width: int) -> None:
    rows = make_expected.chosen_rows(length, width).tolist()
    assert len(rows) == min(length, 16 if width == 3 else 6)
    assert rows == sorted(set(rows))
    if length:
        assert rows[0] == 0
        assert rows[-1] == length - 1
    if length > 203:
        assert {199, 200} <= set(rows)


def test_cosine_is_taken_per_row() -> None:
    a = np.array([[1.0, 0.0], [0.0, 2.0], [0.0, 0.0], [0.0, 0.0]])
    b = np.array([[3.0, 0.0], [5.0, 0.0], [0.0, 0.0], [1.0, 0.0]])
    np.testing.assert_allclose(make_expected.row_cosines(a, b), [1.0, 0.0, 1.0, 0.0])


def test_differences_are_reported() -> None:
    case = {
        "pooled": np.ones((2, 3), np.float32),
        "bpe_ids": np.array([1, 2]),
        "blank_prob": np.array([0.5], np.float32),
    }
    assert not list(make_expected.differences(case, case))
    for name, other in (
        ("pooled", np.float32([[1, 1, 1], [1, 1, 1.01]])),
        ("pooled", 2 * case["pooled"]),
        ("pooled", case["pooled"][:1]),
        ("bpe_ids", np.array([1, 3])),
        ("blank_prob", case["blank_prob"] + 0.1),
    ):
        (complaint,) = make_expected.differences(case, case | {name: other})
        assert complaint.startswith(name)
    (complaint,) = make_expected.differences(case, {"bpe_ids": case["bpe_ids"]})
    assert "pooled" in complaint
