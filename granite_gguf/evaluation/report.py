"""All that is told of models over sets, as plain values: what ``--json`` prints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np

from granite_gguf.evaluation.bootstrap import compare, interval
from granite_gguf.evaluation.figures import (
    Evaluation,
    Figures,
    drawn_means,
    over_sets,
    total_rate,
)
from granite_gguf.evaluation.systems import Systems


def report_values(
    systems: Systems, *, by: Sequence[str] = (), compared: bool = False, seed: int = 0
) -> Figures:
    """Figures of each set, of its groups and recordings, the means over the sets, and comparisons.

    Of fewer than two recordings, or speakers, there is no interval and of a comparison no
    bootstrap: these are None.

    Args:
        systems: at least one, each with at least one set, all scored by the same rule.
        by: what to group recordings by, of :data:`granite_gguf.evaluation.figures.GROUPS`.
        compared: whether to compare each model with the first one; then all have the same
            recordings in the same order.
        seed: of the draws of the bootstrap.
    """
    first, *others = systems
    return {
        "scoring": systems[first][0].versions,
        "models": [
            {
                "model": name,
                "sets": [
                    {
                        "set": one.dataset,
                        "total": _total(one, seed),
                        "by": {
                            kind: {
                                name: _total(group, seed)
                                for name, group in one.groups(kind).items()
                            }
                            for kind in by
                        },
                        "files": one.files(),
                    }
                    for one in sets
                ],
                "mean": {**over_sets(sets), "wer_interval": _mean_interval(sets, seed)},
            }
            for name, sets in systems.items()
        ],
        "comparisons": [_paired(systems, first, other, seed) for other in others]
        if compared
        else [],
    }


def _total(evaluation: Evaluation, seed: int) -> Figures:
    return {**evaluation.total(), "wer_interval": evaluation.interval(seed=seed)}


def _mean_interval(sets: Sequence[Evaluation], seed: int) -> tuple[float, float] | None:
    rates = drawn_means([sets], seed=seed)
    return None if rates is None else interval(rates[0])


def _paired(systems: Systems, first: str, other: str, seed: int) -> Figures:
    pairs = zip(systems[first], systems[other], strict=True)
    difference = float(np.mean([total_rate(two) - total_rate(one) for one, two in pairs]))
    rates = drawn_means([systems[first], systems[other]], seed=seed)
    found = None if rates is None else asdict(compare(rates[0], rates[1]))
    return {"model": other, "against": first, "difference": difference, "bootstrap": found}
