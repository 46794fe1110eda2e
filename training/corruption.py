"""Deliberate errors for the editor to mend, and what CTC can write into its rows at all."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

UNKNOWN = -100  # a label that no loss counts


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


def row_labels(hypothesis: Sequence[int], target: Sequence[int], slot: int, rows: int) -> list[int]:
    """What each of the editor's rows should say to turn the hypothesis into the target.

    Taken from the alignment with the fewest errors: a missing token goes into the slot before the
    next one. `UNKNOWN` stands where the slot would have to hold several, or one that its neighbour
    repeats.
    """
    labels = [slot] * rows
    for place, token in _aligned(hypothesis, target):
        labels[place] = token if labels[place] == slot else UNKNOWN
    for place in range(0, 2 * len(hypothesis) + 1, 2):
        neighbours = labels[max(place - 1, 0) : place] + labels[place + 1 : place + 2]
        if labels[place] != slot and labels[place] in neighbours:
            labels[place] = UNKNOWN
    return labels


def _aligned(hypothesis: Sequence[int], target: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Pairs of a row and the target's token that belongs there, from the last to the first."""
    costs = [list(range(len(target) + 1))]
    for i, said in enumerate(hypothesis, 1):
        row = [i]
        for j, wanted in enumerate(target, 1):
            replaced = costs[-1][j - 1] + (said != wanted)
            row.append(min(replaced, costs[-1][j] + 1, row[-1] + 1))
        costs.append(row)
    i, j = len(hypothesis), len(target)
    while j:
        if i and costs[i][j] == costs[i - 1][j - 1] + (hypothesis[i - 1] != target[j - 1]):
            yield 2 * i - 1, target[j - 1]
            i, j = i - 1, j - 1
        elif i and costs[i][j] == costs[i - 1][j] + 1:
            i -= 1
        else:
            yield 2 * i, target[j - 1]
            j -= 1
