"""Deliberate errors for the editor to mend, and what CTC can write into its rows at all."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class ErrorRates:
    """Probability of each error at each token."""

    deletion: float
    insertion: float
    substitution: float

    def times(self, share: float) -> ErrorRates:
        """All of them smaller."""
        return ErrorRates(self.deletion * share, self.insertion * share, self.substitution * share)


def rows_needed(target: Sequence[int]) -> int:
    """Rows that CTC needs: one per token and one blank between equal neighbours."""
    return len(target) + sum(a == b for a, b in pairwise(target))


def edit_rows(hypothesis: Sequence[int], minimum: int) -> int:
    """Rows of the editor: the tokens and a slot on either side of each."""
    return max(2 * len(hypothesis) + 1, minimum)


def corrupted(
    tokens: Sequence[int], rates: ErrorRates, wrong: Sequence[int], rng: random.Random
) -> list[int]:
    """The tokens with random errors; `wrong` are the tokens that they put in."""
    out: list[int] = []
    for token in tokens:
        if rng.random() < rates.insertion:
            out.append(rng.choice(wrong))
        chance = rng.random()
        if chance < rates.deletion:
            continue
        replaced = chance < rates.deletion + rates.substitution
        out.append(rng.choice(wrong) if replaced else token)
    return out


def editable(hypothesis: Sequence[int], target: Sequence[int], minimum: int) -> bool:
    """Whether the editor's rows for the hypothesis have room for the target."""
    return edit_rows(hypothesis, minimum) >= rows_needed(target)
