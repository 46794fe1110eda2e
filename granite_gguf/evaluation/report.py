"""All that is told of models over sets, as plain values: what ``--json`` prints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np

from granite_gguf.evaluation.bootstrap import Rates, compare, interval, mean_rates
from granite_gguf.evaluation.figures import (
    Evaluation,
    Figures,
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
    # Each set has draws of its own, and all models the same ones.
    rates = {
        name: [one.drawn((seed, index)) for index, one in enumerate(sets)]
        for name, sets in systems.items()
    }
    means = {name: mean_rates(of_sets) for name, of_sets in rates.items()}
    return {
        "scoring": systems[first][0].versions,
        "models": [
            {
                "model": name,
                "sets": [
                    {
                        "set": one.dataset,
                        "total": _with_interval(one.total(), drawn),
                        "by": {kind: _groups(one, kind, seed) for kind in by},
                        "files": one.files(),
                    }
                    for one, drawn in zip(sets, rates[name], strict=True)
                ],
                "mean": _with_interval(over_sets(sets), means[name]),
            }
            for name, sets in systems.items()
        ],
        "comparisons": [
            {
                "model": other,
                "against": first,
                "difference": _mean(systems[other]) - _mean(systems[first]),
                "bootstrap": _compared(means[first], means[other]),
            }
            for other in others
            if compared
        ],
    }


def _groups(evaluation: Evaluation, kind: str, seed: int) -> dict[str, Figures]:
    return {
        name: _with_interval(group.total(), group.drawn((seed, 0)))
        for name, group in evaluation.groups(kind).items()
    }


def _with_interval(figures: Figures, drawn: Rates | None) -> Figures:
    return {**figures, "wer_interval": None if drawn is None else interval(drawn)}


def _mean(sets: Sequence[Evaluation]) -> float:
    return float(np.mean([total_rate(one) for one in sets]))


def _compared(first: Rates | None, other: Rates | None) -> Figures | None:
    return None if first is None or other is None else asdict(compare(first, other))
