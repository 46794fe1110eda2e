"""The results of `diff` as aligned text, Markdown and plain values for JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

from granite_gguf.parity.diff import StageResult

COLUMNS = ("stage", "shape", "cos min", "cos mean", "worst row", "max abs", "verdict")
_FIGURES = ("cos_min", "cos_mean", "worst_row", "max_abs", "length_drift")
_LONGEST_NOTE = 300

Results = Mapping[str, Sequence[StageResult]]
"""The stages of each model, by its file's name."""


def _cells(result: StageResult) -> list[str]:
    shape = "x".join(map(str, result.shape))
    c = result.comparison
    if c is not None:
        figures = [f"{c.cos_min:.8f}", f"{c.cos_mean:.8f}", str(c.worst_row), f"{c.max_abs:.2e}"]
    elif result.agreement is not None:
        figures = [f"{result.agreement:.2%} equal", "", "", ""]
    else:
        figures = ["", "", "", ""]
    return [result.name, shape, *figures, verdict(result)]


def verdict(result: StageResult) -> str:
    """One word."""
    return "pass" if result.passed else "FAIL"


def summary(results: Sequence[StageResult]) -> str:
    """How many stages pass, and which fails first."""
    failed = [result.name for result in results if not result.passed]
    if not failed:
        return f"all {len(results)} stages pass"
    return f"{len(failed)} of {len(results)} stages fail, the first is {failed[0]}"


def _notes(results: Sequence[StageResult]) -> list[str]:
    notes = [f"{result.name}: {note}" for result in results for note in result.notes]
    return [note if len(note) <= _LONGEST_NOTE else f"{note[:_LONGEST_NOTE]}…" for note in notes]


def as_text(results: Sequence[StageResult]) -> str:
    """A table with a row per stage, the notes and the summary."""
    rows = [list(COLUMNS), *map(_cells, results)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join([*lines, "", *_notes(results), summary(results)])


def as_markdown(results: Results) -> str:
    """For one model the whole table, for several one of stages and models."""
    if len(results) == 1:
        (stages,) = results.values()
        table = _markdown_table(COLUMNS, [_cells(result) for result in stages])
        notes = [f"- {_escape(note)}" for note in _notes(stages)]
        return "\n".join([*table, "", *notes, *([""] if notes else []), summary(stages)])
    rows: dict[str, dict[str, str]] = {}
    for name, stages in results.items():
        for result in stages:
            rows.setdefault(result.name, {})[name] = _short(result)
    table = _markdown_table(
        ("stage, lowest cosine", *results),
        [[stage, *(cells.get(name, "") for name in results)] for stage, cells in rows.items()],
    )
    lines = [f"- {_escape(name)}: {summary(stages)}" for name, stages in results.items()]
    return "\n".join([*table, "", *lines])


def _short(result: StageResult) -> str:
    if result.comparison is not None:
        figure = f"{result.comparison.cos_min:.6f}"
    else:
        figure = "" if result.agreement is None else f"{result.agreement:.2%} equal"
    return figure if result.passed else f"**{figure} FAIL**".replace("** ", "**")


def _markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(map(_escape, cells))} |"

    return [line(head), "|---" + "|---:" * (len(head) - 1) + "|", *map(line, rows)]


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def as_values(results: Sequence[StageResult]) -> list[dict[str, Any]]:
    """Plain values, ready for JSON; a figure that is not finite is None."""
    return [
        {
            "stage": result.name,
            "shape": list(result.shape),
            **{name: _figure(result, name) for name in _FIGURES},
            "agreement": result.agreement,
            "threshold": result.threshold,
            "passed": result.passed,
            "notes": list(result.notes),
        }
        for result in results
    ]


def _figure(result: StageResult, name: str) -> float | int | None:
    value = None if result.comparison is None else getattr(result.comparison, name)
    return value if value is not None and isfinite(value) else None
