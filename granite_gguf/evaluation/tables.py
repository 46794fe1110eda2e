"""Figures as a person reads them in a terminal, and as Markdown for a model's card."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import inf
from pathlib import Path

from granite_gguf.errors import printable
from granite_gguf.evaluation.figures import Figures, Row, over_sets
from granite_gguf.evaluation.scoring import Scorer, total
from granite_gguf.evaluation.systems import Systems, unique_names

_HEAD = (
    f"{'WER':>8}  {'95 % interval':>16}  {'CER':>8}  {'words':>7}  {'ins':>5}  {'del':>5}  "
    f"{'sub':>5}  {'RTFx':>7}  set"
)


def rate_text(rate: float | None) -> str:
    """A rate in percent.

    >>> rate_text(0.0312), rate_text(None)
    ('3.12 %', 'inf')
    """
    return "inf" if rate in (None, inf) else f"{100 * rate:.2f} %"


def interval_text(interval: Sequence[float] | None) -> str:
    """An interval of rates in percent.

    >>> interval_text((0.021, 0.04))
    '2.10 to 4.00 %'
    """
    if interval is None:
        return "-"
    low, high = interval
    return f"{100 * low:.2f} to {100 * high:.2f} %"


def speed_text(rtfx: float | None) -> str:
    """A multiple of real time, or that it is not known.

    >>> speed_text(25.04), speed_text(None)
    ('25.0x', '-')
    """
    return "-" if rtfx is None else f"{rtfx:.1f}x"


def versions_text(versions: Mapping[str, str]) -> str:
    """The rule of scoring and what applied it, on a line."""
    applied = [f"{name} {value}" for name, value in versions.items() if name != "scoring"]
    return f"scoring: {versions['scoring']} ({', '.join(applied)})"


def comparison_text(found: Figures) -> str:
    """What a paired comparison found, on a line."""
    text = (
        f"{printable(found['model'])} against {printable(found['against'])}: WER "
        f"{100 * found['difference']:+.2f} points"
    )
    drawn = found["bootstrap"]
    if drawn is None:
        return f"{text} (too few recordings, or speakers, to tell how sure that is)"
    return (
        f"{text} (95 % interval {100 * drawn['low']:+.2f} to {100 * drawn['high']:+.2f}), lower on "
        f"{100 * drawn['better']:.1f} % of the draws; paired bootstrap, p = {drawn['p']:.4f}"
    )


def as_text(report: Figures) -> str:
    """The values of :func:`granite_gguf.evaluation.report.report_values` as tables."""
    lines = []
    for model in report["models"]:
        lines += [printable(model["model"]), _HEAD]
        for one in model["sets"]:
            lines.append(_line(one["total"], one["set"]))
            for by, groups in one["by"].items():
                lines += [_line(figures, f"  {by} {name}") for name, figures in groups.items()]
        if len(model["sets"]) > 1:
            lines.append(_line(model["mean"], f"mean of {len(model['sets'])} sets"))
        lines += [_sentence(model["mean"]), ""]
    lines += [comparison_text(found) for found in report["comparisons"]]
    return "\n".join([*lines, versions_text(report["scoring"])])


def _line(figures: Figures, name: str) -> str:
    failed = f"  ({len(figures['failed'])} failed)" if figures["failed"] else ""
    return (
        f"{rate_text(figures['wer']):>8}  {interval_text(figures.get('wer_interval')):>16}  "
        f"{rate_text(figures['cer']):>8}  {figures['words']:>7}  {figures['insertions']:>5}  "
        f"{figures['deletions']:>5}  {figures['substitutions']:>5}  "
        f"{speed_text(figures['rtfx']):>7}  {printable(name)}{failed}"
    )


def _sentence(whole: Figures) -> str:
    times = ""
    if whole["rtfx"] is not None:
        times = f"; {whole['duration']:.1f} s of audio in {whole['seconds']:.1f} s"
    return (
        f"{whole['files']} files, {len(whole['failed'])} failed, {whole['left_out']} left out, "
        f"{whole['exact']} equal byte for byte; {whole['word_errors']} errors in "
        f"{whole['words']} words, {whole['character_errors']} in {whole['characters']} "
        f"characters{times}"
    )


def as_markdown(systems: Systems, plain: Scorer) -> str:
    """A table for each set: clips down, models across, three columns of each.

    Args:
        systems: all with the same recordings in the same order.
        plain: counts the errors of the column "WER", in texts as they are; those of "normalised
            WER" are those of the evaluations.
    """
    return "\n\n".join(_markdown(systems, plain)) + "\n"


def _markdown(systems: Systems, plain: Scorer) -> Iterator[str]:
    columns = [f"{_cell(name)}: byte-exact | WER | normalised WER" for name in systems]
    for sets in zip(*systems.values(), strict=True):
        lines = [
            f"| {_cell(sets[0].dataset)} | {' | '.join(columns)} |",
            "|---|" + "---|---:|---:|" * len(systems),
        ]
        paths = [Path(row.item.name) for row in sets[0].rows]
        for name, *rows in zip(unique_names(paths), *(one.rows for one in sets), strict=True):
            lines.append(_clip(name, [[row] for row in rows], plain))
        lines.append(_clip(f"all {len(sets[0].rows)}", [one.rows for one in sets], plain))
        yield "\n".join(lines)
    if len(next(iter(systems.values()))) > 1:
        means = {name: rate_text(over_sets(sets)["wer"]) for name, sets in systems.items()}
        named = ", ".join(f"{_cell(name)} {mean}" for name, mean in means.items())
        yield f"Mean of the sets, normalised: {named}."
    versions = next(iter(systems.values()))[0].versions
    yield f"Normalised by {versions_text(versions)}."


def _clip(name: str, systems: Sequence[Sequence[Row]], plain: Scorer) -> str:
    cells = [_cell(name)]
    for rows in systems:
        exact = sum(row.score.exact for row in rows)
        cells.append(("yes" if exact else "no") if len(rows) == 1 else f"{exact} of {len(rows)}")
        as_they_are = total(
            plain.score(row.item.text or "", row.result.text, row.item.language or "")
            for row in rows
        )
        for score in (as_they_are, total(row.score for row in rows)):
            cells.append(rate_text(score.words.rate))
    return f"| {' | '.join(cells)} |"


def _cell(text: str) -> str:
    return printable(text).replace("|", "\\|")
