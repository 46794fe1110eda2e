"""CTC collapse, hypothesis tokens and insertion slots, by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

import granite_gguf
from granite_gguf.ctc import collapse
from granite_gguf.nar.decoding import edited_tokens, insert_slots
from granite_gguf.nar.spec import Hypothesis
from granite_gguf.stages.decoding import entropies, hypothesis_tokens


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ([], []),
        ([0, 0, 0], []),
        ([5, 5, 5], [5]),
        ([5, 0, 5], [5, 5]),  # a blank keeps two equal tokens apart
        ([0, 5, 5, 0, 0, 6, 5, 5, 0], [5, 6, 5]),
    ],
)
def test_collapse(ids: list[int], expected: list[int]) -> None:
    assert collapse(np.array(ids, dtype=np.int32), blank=0).tolist() == expected


def test_entropies() -> None:
    """Of four equal odds log 4; of 3 to 1 by hand; of a certain id none, whatever its logit."""
    rows = [[5.0, 5.0, 5.0, 5.0], [math.log(3), 0.0, -np.inf, -np.inf], [9000.0, 0.0, 0.0, 0.0]]
    finite = np.maximum(np.array(rows * 40, np.float32), -1e4)
    expected = [math.log(4), math.log(4) - 0.75 * math.log(3), 0.0]
    np.testing.assert_allclose(entropies(finite), expected * 40, rtol=1e-6, atol=1e-7)


def test_hypothesis_ids_shift_in_the_first_release_only() -> None:
    first = Hypothesis(bpe_vocab=101, pooling_window=4)
    later = Hypothesis(bpe_vocab=100, pooling_window=4, blank_id=7, id_shift=0, retokenize=False)
    assert hypothesis_tokens(first, np.array([0, 8, 8, 0, 1])).tolist() == [7, 0]
    assert hypothesis_tokens(later, np.array([7, 8, 8, 7, 0])).tolist() == [8, 0]


def test_slots(models: dict[str, granite_gguf.Model]) -> None:
    editor = replace(models["nle"].hparams.editor, eos_token_id=9, min_edit_length=8)
    assert insert_slots(editor, np.array([], np.int64)).tolist() == [9] * 8
    assert insert_slots(editor, np.array([1, 2])).tolist() == [9, 1, 9, 2, 9, 9, 9, 9]
    four = insert_slots(editor, np.array([1, 2, 3, 4])).tolist()
    assert four == [9, 1, 9, 2, 9, 3, 9, 4, 9]
    native = replace(editor, min_edit_length=0)
    assert insert_slots(native, np.array([], np.int64)).tolist() == [9]


def test_edited_tokens_drop_the_slots_left_empty(models: dict[str, granite_gguf.Model]) -> None:
    editor = replace(models["nle"].hparams.editor, eos_token_id=9)
    assert edited_tokens(editor, np.array([9, 1, 1, 9, 1, 9, 9, 4])).tolist() == [1, 1, 4]
