"""From logits to ids and tokens: pure functions on arrays."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from granite_gguf.arrays import FloatArray, Floats, IntArray
from granite_gguf.ctc import collapse
from granite_gguf.spec.hparams import BpeHead

ROWS_AT_ONCE = 4  # of a softmax over the vocabulary, which stay in the caches
_LEAST = 1e-10  # a probability whose logarithm there is
_SPOKEN_FRAMES = 3  # 60 ms, less than the shortest words


def best_ids(logits: FloatArray) -> IntArray:
    """The id of the largest logit of each row ``(rows, vocabulary)``; of equal ones, the first."""
    best: IntArray = logits.argmax(axis=1).astype(np.int64)
    return best


def log_totals(logits: FloatArray) -> FloatArray:
    """The logarithm of each row's sum of exponentials, ``(rows,)``: what softmax divides by."""
    totals = np.empty(len(logits), np.float32)
    for start in range(0, len(logits), ROWS_AT_ONCE):
        rows = logits[start : start + ROWS_AT_ONCE]
        top = rows.max(axis=1, keepdims=True)
        powers = rows - top
        sums = np.exp(powers, out=powers).sum(axis=1)
        totals[start : start + ROWS_AT_ONCE] = top[:, 0] + np.log(sums)
    return totals


def best_probabilities(logits: FloatArray) -> FloatArray:
    """The probability of each row's best id ``(rows,)``."""
    best: FloatArray = np.exp(logits.max(axis=1) - log_totals(logits))
    return best


def entropies(logits: FloatArray) -> FloatArray:
    """The entropy of each row's softmax in nats ``(rows,)``: 0 where one id is certain."""
    found = np.empty(len(logits), np.float32)
    for start in range(0, len(logits), ROWS_AT_ONCE):
        below = logits[start : start + ROWS_AT_ONCE]
        below = below - below.max(axis=1, keepdims=True)
        weights = np.exp(below)
        totals = weights.sum(axis=1)
        weights *= below
        found[start : start + ROWS_AT_ONCE] = np.log(totals) - weights.sum(axis=1) / totals
    return found


def run_probabilities(ids: IntArray, best: FloatArray, blank: int) -> FloatArray:
    """The probability of each token that a collapse leaves: its run's surest row counts.

    Args:
        ids: ``(rows,)``, the best id of each row.
        best: ``(rows,)``, its probability.
        blank: the id that is no token.
    """
    run_starts = np.flatnonzero(np.concatenate([[True], ids[1:] != ids[:-1]]))
    surest: FloatArray = np.maximum.reduceat(best, run_starts)
    kept: FloatArray = surest[ids[run_starts] != blank]
    return kept


def confidence(probabilities: Floats) -> float | None:
    """The geometric mean of tokens' probabilities ``(n,)``; None without tokens."""
    if not len(probabilities):
        return None
    return float(np.exp(np.log(np.maximum(probabilities, _LEAST)).mean()))


def no_speech(blank: Floats) -> float:
    """The blank's mean probability in the frames that have least of it, 1 without frames.

    A single frame may be anything, and of a long silence with a word in it most are blank.

    Args:
        blank: ``(T,)``, in each frame.
    """
    return float(np.sort(blank)[:_SPOKEN_FRAMES].mean()) if len(blank) else 1.0


def hypothesis_tokens(h: BpeHead, ids: npt.NDArray[np.integer]) -> IntArray:
    """Tokens of the first hypothesis from the BPE head's best ids, one per pooled frame."""
    return collapse(ids, h.blank_id) - h.id_shift
