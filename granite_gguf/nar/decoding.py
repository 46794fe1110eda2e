"""From CTC outputs to text ids and back: pure functions on integer arrays."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from granite_gguf.arrays import IntArray
from granite_gguf.spec.nar import Editor, Hypothesis


def best_ids(logits: npt.NDArray[np.float32]) -> IntArray:
    """The id of the largest logit of each row ``(rows, vocabulary)``; of equal ones, the first."""
    best: IntArray = logits.argmax(axis=1).astype(np.int64)
    return best


def collapse(ids: npt.NDArray[np.integer], blank: int) -> IntArray:
    """CTC collapse: merge runs of equal ids, then drop blanks, so that A _ A stays A A."""
    changed = np.ones(len(ids), dtype=bool)
    changed[1:] = ids[1:] != ids[:-1]
    merged: IntArray = ids[changed].astype(np.int64)
    kept: IntArray = merged[merged != blank]
    return kept


def hypothesis_tokens(h: Hypothesis, ids: npt.NDArray[np.integer]) -> IntArray:
    """Tokens of the first hypothesis from the BPE head's best ids, one per pooled frame."""
    return collapse(ids, h.blank_id) - h.id_shift


def insert_slots(e: Editor, tokens: npt.NDArray[np.integer]) -> IntArray:
    """The editor's text ids: an insertion slot (eos) before, between and after the tokens.

    ``[eos, t1, eos, t2, …, tn, eos]``, filled with eos to ``min_edit_length``.
    """
    length = max(2 * len(tokens) + 1, e.min_edit_length)
    slots = np.full(length, e.eos_token_id, dtype=np.int64)
    slots[1 : 2 * len(tokens) : 2] = tokens
    return slots


def edited_tokens(e: Editor, ids: npt.NDArray[np.integer]) -> IntArray:
    """Tokens of the transcript from the editor's best ids, one per row of text."""
    return collapse(ids, e.eos_token_id)
