"""What the editor is given and what it answers: pure functions on arrays."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from granite_gguf.arrays import FloatArray, IntArray
from granite_gguf.ctc import collapse
from granite_gguf.nar.spec import Editor
from granite_gguf.stages.decoding import ROWS_AT_ONCE


def best_probabilities(e: Editor, logits: FloatArray) -> FloatArray:
    """The editor's probability of each row's best id, ``(rows,)``.

    Args:
        e: tells the scale of the logits.
        logits: ``(rows, vocabulary)``, not divided by the scale.
    """
    scale = np.float32(e.logits_scaling if e.apply_logits_scaling else 1.0)
    best = np.empty(len(logits), np.float32)
    for start in range(0, len(logits), ROWS_AT_ONCE):
        rows = logits[start : start + ROWS_AT_ONCE] / scale
        rows -= rows.max(axis=1, keepdims=True)
        best[start : start + ROWS_AT_ONCE] = 1.0 / np.exp(rows, out=rows).sum(axis=1)
    return best


def insert_slots(e: Editor, tokens: npt.NDArray[np.integer]) -> IntArray:
    """The editor's text ids: an insertion slot (eos) before, between and after the tokens.

    ``[eos, t1, eos, t2, …, tn, eos]``, filled with eos to ``min_edit_length``.
    """
    length = max(2 * len(tokens) + 1, e.min_edit_length)
    slots = np.full(length, e.eos_token_id, dtype=np.int64)
    slots[1 : 2 * len(tokens) : 2] = tokens
    return slots


def keep_tokens(
    e: Editor, ids: IntArray, best: FloatArray, tokens: IntArray, sure: FloatArray
) -> tuple[IntArray, FloatArray]:
    """The editor's best ids and their probabilities, with some tokens as they were.

    Nothing comes between them, nor right beside them.

    Args:
        e: tells what stands in a slot.
        ids: ``(rows,)``, the best of each row.
        best: ``(rows,)``, its probability.
        tokens: ``(n,)``, what was edited, in every second row.
        sure: ``(n,)``, the probabilities of those that stay; 0 of all others.
    """
    (kept,) = np.nonzero(sure)
    ids, best = ids.copy(), best.copy()
    ids[2 * kept] = ids[2 * kept + 2] = e.eos_token_id
    ids[2 * kept + 1], best[2 * kept + 1] = tokens[kept], sure[kept]
    return ids, best


def edited_tokens(e: Editor, ids: npt.NDArray[np.integer]) -> IntArray:
    """Tokens of the transcript from the editor's best ids, one per row of text."""
    return collapse(ids, e.eos_token_id)
