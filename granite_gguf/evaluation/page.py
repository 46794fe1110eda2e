"""A page for a browser with every recording, what was expected of it and what differs.

It stands by itself but for the recordings, which it points at.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from html import escape
from importlib.resources import files
from math import isfinite
from pathlib import Path
from urllib.parse import quote

from granite_gguf.errors import printable
from granite_gguf.evaluation.figures import Figures, Row
from granite_gguf.evaluation.scoring import Scorer, same_words
from granite_gguf.evaluation.systems import Systems
from granite_gguf.evaluation.tables import (
    comparison_text,
    interval_text,
    rate_text,
    speed_text,
    versions_text,
)
from granite_gguf.files import replacing

_UNKNOWN = -1  # sorts what is not known before everything else


def write_page(path: Path, systems: Systems, report: Figures, scorer: Scorer) -> None:
    """Write the page, in place of an earlier one.

    Args:
        path: where it goes; recordings are named relative to its folder where they lie in it.
        systems: whose recordings are listed.
        report: their figures.
        scorer: what scored them.

    Raises:
        OutputError: it cannot be written.
    """
    template = files("granite_gguf").joinpath("data/evaluation.html").read_text(encoding="utf-8")
    folder = path.absolute().parent
    rows = [
        _recording(row, name, one.dataset, folder, scorer)
        for name, sets in systems.items()
        for one in sets
        for row in one.rows
    ]
    parts = {
        "versions": _text(versions_text(report["scoring"])),
        "comparisons": "".join(
            f"<p>{_text(comparison_text(found))}</p>" for found in report["comparisons"]
        ),
        "summary": "\n".join(_summary(report)),
        "recordings": "\n".join(rows),
        "count": str(len(rows)),
    }
    # In one go, for a transcript may hold what looks like a mark.
    pieces = template.split("{{")
    page = pieces[0]
    for piece in pieces[1:]:
        name, _, rest = piece.partition("}}")
        page += parts[name] + rest
    with replacing(path, force=True) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _summary(report: Figures) -> Iterator[str]:
    for model in report["models"]:
        named = [(one["set"], one["total"]) for one in model["sets"]]
        if len(named) > 1:
            named.append((f"mean of {len(named)} sets", model["mean"]))
        for name, figures in named:
            cells = [
                rate_text(figures["wer"]),
                interval_text(figures["wer_interval"]),
                rate_text(figures["cer"]),
                *(str(figures[key]) for key in ("words", "insertions", "deletions")),
                *(str(figures[key]) for key in ("substitutions", "files")),
                str(len(figures["failed"])),
                speed_text(figures["rtfx"]),
            ]
            numbers = "".join(f"<td class=number>{cell}</td>" for cell in cells)
            heads = "".join(f"<th scope=row>{_text(text)}</th>" for text in (model["model"], name))
            yield f"<tr>{heads}{numbers}</tr>"


def _recording(row: Row, model: str, dataset: str, folder: Path, scorer: Scorer) -> str:
    item, result, words = row.item, row.result, row.score.words
    source = _text(_address(item.path, folder))
    expected, found = item.text or "", result.text
    error = f"<p class=error role=alert>{_text(result.error)}</p>" if result.error else ""
    numbers = [
        (words.rate if isfinite(words.rate) else 10.0**9, rate_text(words.rate)),
        (words.errors, str(words.errors)),
        (
            _UNKNOWN if result.duration is None else result.duration,
            "-" if result.duration is None else f"{result.duration:.1f} s",
        ),
    ]
    cells = "".join(
        f'<td class=number data-value="{value}">{_text(text)}</td>' for value, text in numbers
    )
    differences = _differences(scorer.align(expected, found, item.language or ""))
    about = " · ".join(filter(None, (item.language, item.speaker)))
    return (
        f"<tr data-errors={words.errors + bool(result.error)}>"
        f"<th scope=row><span class=name>{_text(item.name)}</span>"
        f"<small>{_text(about)}</small>"
        f'<a class=listen href="{source}" aria-label="listen to {_text(item.name)}">▶ listen</a>'
        "</th>"
        f"<td>{_text(model)}</td><td>{_text(dataset)}</td>{cells}"
        f"<td class=texts>{error}<dl><dt>expected</dt><dd>{_text(expected)}</dd>"
        f"<dt>found</dt><dd>{_text(found)}</dd><dt>scored</dt>"
        f"<dd>{differences}</dd></dl></td></tr>"
    )


def _differences(pairs: Sequence[tuple[str | None, str | None]]) -> str:
    parts = []
    for pair in pairs:
        expected, found = (None if word is None else _text(word) for word in pair)
        if same_words(pair):
            parts.append(expected or "")
        else:
            lost = "" if expected is None else f"<del>{expected}</del>"
            new = "" if found is None else f"<ins>{found}</ins>"
            parts.append(lost + new if not (lost and new) else f"<span>{lost}{new}</span>")
    return " ".join(parts)


def _address(path: Path, folder: Path) -> str:
    """Of a recording, for a page in a folder: relative where it lies within, so that both move."""
    absolute = Path(os.path.abspath(path))  # noqa: PTH100 - a link is kept as it is
    if absolute.is_relative_to(folder):
        return "./" + quote(os.fsencode(absolute.relative_to(folder)))
    return "file://" + quote(os.fsencode(absolute))


def _text(text: str) -> str:
    return escape(printable(text))
