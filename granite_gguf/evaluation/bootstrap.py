"""How sure a word error rate is, and whether two differ: by drawing the recordings anew.

The recordings of a set are drawn with replacement, as many as there are, ten thousand times, and
the rate of each draw is computed (Bisani and Ney, "Bootstrap estimates for confidence intervals in
ASR performance evaluation", ICASSP 2004). Two systems are compared on the same draws, which is the
paired test of that paper. Where speakers are known, all recordings of a speaker are drawn together,
for their errors go together (Liu and Peng, "Statistical testing on ASR performance via blockwise
bootstrap", Interspeech 2020). Over several sets each is drawn by itself, and a draw's figure is the
plain mean of their rates.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from granite_gguf.evaluation.scoring import Edits

DRAWS = 10_000
LEVEL = 0.95
_AT_ONCE = 4_000_000  # numbers drawn at a time

Rates = NDArray[np.float64]


def drawn_rates(
    edits: Sequence[Edits], blocks: Sequence[Hashable], *, seed: Sequence[int]
) -> Rates | None:
    """Word error rates of a system on draws of a set.

    Args:
        edits: the word edits of every recording.
        blocks: for every recording whose it is; recordings of the same block are drawn together.
        seed: of numpy's default generator. Of the same blocks it gives the same draws, so that the
            rates of two systems are pairs.

    Returns:
        ``(DRAWS,)``; None where nothing can be said: of fewer than two blocks, and where so little
        is expected that nothing is in one of the draws.
    """
    keys = {block: index for index, block in enumerate(dict.fromkeys(blocks))}
    if len(keys) < 2:
        return None
    errors, units = np.zeros((2, len(keys)), np.int64)
    for block, edit in zip(blocks, edits, strict=True):
        errors[keys[block]] += edit.errors
        units[keys[block]] += edit.units
    random = np.random.default_rng(list(seed))
    rates = np.empty(DRAWS)
    step = max(1, _AT_ONCE // len(keys))
    for start in range(0, DRAWS, step):
        draws = random.integers(0, len(keys), (min(step, DRAWS - start), len(keys)))
        expected = units[draws].sum(axis=1)
        if not expected.all():
            return None
        rates[start : start + step] = errors[draws].sum(axis=1) / expected
    return rates


def mean_rates(sets: Sequence[Rates | None]) -> Rates | None:
    """Means over the sets, draw by draw ``(DRAWS,)``; None where there is nothing of one."""
    known = [rates for rates in sets if rates is not None]
    return np.mean(known, axis=0) if len(known) == len(sets) else None


def interval(rates: Rates) -> tuple[float, float]:
    """Between which two rates the middle 95 % of the draws ``(DRAWS,)`` lie."""
    low, high = np.quantile(rates, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return float(low), float(high)


@dataclass(frozen=True)
class Comparison:
    """One system against another on the same recordings.

    Attributes:
        low, high: between what the middle 95 % of the differences of the draws lie: its word
            error rate minus the other's, below 0 where it is the better one.
        better: the part of the draws on which it has the lower rate, the "probability of
            improvement".
        p: of a difference on either side as large by chance: twice the part of the draws on which
            the difference has not the sign that it has on most, and at most 1.
    """

    low: float
    high: float
    better: float
    p: float


def compare(first: Rates, other: Rates) -> Comparison:
    """Compare ``other`` with ``first`` by their rates on the same draws, each ``(DRAWS,)``."""
    differences = other - first
    low, high = interval(differences)
    # With one more on each side, for no number of draws proves that chance could not do it.
    sides = np.array([(differences <= 0).sum(), (differences >= 0).sum()]) + 1
    p = min(1.0, float(2 * sides.min() / (len(differences) + 1)))
    return Comparison(low, high, float((differences < 0).mean()), p)
