"""What is told of recordings, of a set, and of a model over several sets, as plain values."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from math import isfinite
from typing import Any

import numpy as np

from granite_gguf.evaluation.bootstrap import Rates, drawn_rates, interval
from granite_gguf.evaluation.leaderboard import sum_known
from granite_gguf.evaluation.manifest import Item
from granite_gguf.evaluation.results import Result
from granite_gguf.evaluation.scoring import Score, total

LENGTHS = (5, 10, 20, 30, 60)  # seconds between groups of recordings

Figures = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """One recording with its result and score.

    Attributes:
        item: the recording; its ``text`` is what it was scored against, its ``language`` that by
            whose normaliser.
    """

    item: Item
    result: Result
    score: Score


@dataclass(frozen=True)
class Evaluation:
    """What a model makes of a set of recordings.

    Attributes:
        rows: one for each recording, in the manifest's order; one that failed has an error, and
            counts as an empty transcript.
        model: the model's name.
        dataset: the set's name.
        left_out: recordings that the rule does not score.
        versions: the rule of scoring, and the versions of what applied it.
    """

    rows: Sequence[Row]
    model: str = ""
    dataset: str = ""
    left_out: int = 0
    versions: dict[str, str] = field(default_factory=dict)

    def total(self) -> Figures:
        """Of all recordings: ``wer`` and ``cer`` as fractions, counts, seconds, failed files.

        ``rtfx`` is seconds of audio in a second of computation, without the decoding of files; None
        where these are not known.
        """
        return {**_counts(self.rows), "left_out": self.left_out}

    def files(self) -> list[Figures]:
        """The same of each recording, with its texts and error."""
        return [
            {
                "audio": row.item.name,
                "expected": row.item.text,
                "text": row.result.text,
                "error": row.result.error,
                "language": row.item.language,
                "speaker": row.item.speaker,
                **_figures([row]),
            }
            for row in self.rows
        ]

    def groups(self, by: str) -> dict[str, Evaluation]:
        """The recordings of each language, speaker, range of lengths or file, or ``unknown``."""
        groups: dict[str, list[Row]] = {}
        in_order = _by_length if by == "length" else list
        for row in in_order(self.rows):
            groups.setdefault(GROUPS[by](row) or "unknown", []).append(row)
        return {name: replace(self, rows=rows, left_out=0) for name, rows in groups.items()}

    def drawn(self, seed: Sequence[int]) -> Rates | None:
        """Values of ``wer`` on draws of the recordings, or of speakers where these are known."""
        edits = [row.score.words for row in self.rows]
        blocks: list[Hashable] = [
            ("speaker", row.item.speaker) if row.item.speaker else index
            for index, row in enumerate(self.rows)
        ]
        return drawn_rates(edits, blocks, seed=seed)

    def interval(self, *, seed: int = 0) -> tuple[float, float] | None:
        """The 95 % confidence interval of ``wer`` by bootstrap; None of fewer than two blocks.

        See :mod:`granite_gguf.evaluation.bootstrap`.
        """
        rates = self.drawn((seed, 0))
        return None if rates is None else interval(rates)


def length_group(seconds: float | None) -> str | None:
    """The range that a length falls in.

    >>> length_group(5.0), length_group(4.99), length_group(900.0)
    ('5 to 10 s', 'under 5 s', '60 s and more')
    """
    if seconds is None:
        return None
    if seconds < LENGTHS[0]:
        return f"under {LENGTHS[0]} s"
    for low, high in pairwise(LENGTHS):
        if seconds < high:
            return f"{low} to {high} s"
    return f"{LENGTHS[-1]} s and more"


GROUPS: dict[str, Callable[[Row], str | None]] = {
    "file": lambda row: row.item.name,
    "language": lambda row: row.item.language,
    "length": lambda row: length_group(row.result.duration),
    "speaker": lambda row: row.item.speaker,
}


def _by_length(rows: Sequence[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: row.result.duration or 0.0)


def over_sets(sets: Sequence[Evaluation]) -> Figures:
    """Of a model over several sets: the plain means of the rates, the sums of everything else."""
    rows = [row for one in sets for row in one.rows]
    found = {**_counts(rows), "left_out": sum(one.left_out for one in sets)}
    for name in ("wer", "cer"):
        rates = [one.total()[name] for one in sets]
        found[name] = None if None in rates else float(np.mean(rates))
    return found


def total_rate(evaluation: Evaluation) -> float:
    """The word error rate of a set; infinite where nothing is expected and something found."""
    return total(row.score for row in evaluation.rows).words.rate


def _counts(rows: Sequence[Row]) -> Figures:
    return {
        "files": len(rows),
        "failed": [row.item.name for row in rows if row.result.error],
        **_figures(rows),
    }


def _figures(rows: Sequence[Row]) -> Figures:
    score = total(row.score for row in rows)
    duration, seconds = (
        sum_known([getattr(row.result, name) for row in rows]) for name in ("duration", "seconds")
    )
    return {
        "wer": score.words.rate if isfinite(score.words.rate) else None,
        "cer": score.characters.rate if isfinite(score.characters.rate) else None,
        "word_errors": score.words.errors,
        "insertions": score.words.insertions,
        "deletions": score.words.deletions,
        "substitutions": score.words.substitutions,
        "words": score.words.units,
        "character_errors": score.characters.errors,
        "characters": score.characters.units,
        "exact": score.exact,
        "duration": duration,
        "seconds": seconds,
        "rtfx": duration / seconds if duration is not None and seconds else None,
    }
