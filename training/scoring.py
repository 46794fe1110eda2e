"""Word errors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def edit_distance(first: Sequence[str], second: Sequence[str]) -> int:
    """Fewest insertions, deletions and substitutions that turn one into the other."""
    row = list(range(len(second) + 1))
    for i, a in enumerate(first, 1):
        diagonal, row[0] = row[0], i
        for j, b in enumerate(second, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (a != b))
    return row[-1]


def word_error_rate(pairs: Iterable[tuple[str, str]]) -> float:
    """Errors per word of the references, over (reference, hypothesis) texts."""
    errors = words = 0
    for reference, hypothesis in pairs:
        errors += edit_distance(reference.split(), hypothesis.split())
        words += len(reference.split())
    return errors / max(words, 1)
