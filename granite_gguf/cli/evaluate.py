"""``granite-gguf eval``: error rates over sets of recordings."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from granite_gguf.cli.console import (
    counting_progress,
    print_error,
    print_note,
    print_result,
    telling_warnings,
)
from granite_gguf.cli.groups import command
from granite_gguf.cli.leaving import EXIT_FAILED
from granite_gguf.cli.model_names import local_model
from granite_gguf.cli.options import MODEL_HELP, MODEL_VARIABLE, AsJson, Computing
from granite_gguf.errors import InputError
from granite_gguf.evaluation.figures import GROUPS, Evaluation, Row
from granite_gguf.evaluation.page import write_page
from granite_gguf.evaluation.report import report_values
from granite_gguf.evaluation.results import ResultsFile
from granite_gguf.evaluation.run import Dataset, read_dataset, score_each
from granite_gguf.evaluation.scoring import Scorer, Scoring
from granite_gguf.evaluation.systems import Systems, aligned, rescored, results_files, unique_names
from granite_gguf.evaluation.tables import as_markdown, as_text
from granite_gguf.files import check_target
from granite_gguf.model import Model

_SCORING = "Scoring"
_OUTPUT = "Output"


@command
def evaluate(
    sets: Annotated[
        list[Path],
        typer.Argument(
            metavar="SET...",
            help="Manifests: JSON lines (audio, text, language, speaker) or TSV of the same "
            "columns, with paths relative to the file's folder and inside it, or absolute; or "
            "folders of audio with a .txt beside each file.",
        ),
    ],
    model: Annotated[
        list[str] | None,
        typer.Option(
            "-m",
            "--model",
            help=f"{MODEL_HELP} Again for each of several models. "
            f"By default that of {MODEL_VARIABLE}.",
            show_default=False,
        ),
    ] = None,
    rescore: Annotated[
        bool,
        typer.Option(
            "--rescore",
            help="The sets are results, of -o or of any system with the leaderboard's fields, or "
            "folders of them: score these, and run no model.",
        ),
    ] = False,
    against: Annotated[
        Path | None,
        typer.Option(
            help="Compare with the texts of this results file, or output of `transcribe` (.jsonl "
            "if --json), instead of the manifest's."
        ),
    ] = None,
    scoring: Annotated[
        Scoring,
        typer.Option(
            help="'leaderboard' counts as the Open ASR Leaderboard does, 'whisper' after "
            "Whisper's normalisers, 'plain' words as they stand.",
            rich_help_panel=_SCORING,
        ),
    ] = Scoring.WHISPER,
    language: Annotated[
        str,
        typer.Option(
            help="Of recordings whose manifest does not say: en has a normaliser of its own.",
            rich_help_panel=_SCORING,
        ),
    ] = "en",
    by: Annotated[
        str | None,
        typer.Option(
            metavar="A,B",
            help=f"Also of groups of recordings, by {', '.join(GROUPS)}.",
            rich_help_panel=_SCORING,
            show_default=False,
        ),
    ] = None,
    compare: Annotated[
        bool,
        typer.Option(
            "--compare",
            help="Compare each model with the first one by a paired bootstrap.",
            rich_help_panel=_SCORING,
        ),
    ] = False,
    seed: Annotated[
        int, typer.Option(min=0, help="Of the bootstrap's draws.", rich_help_panel=_SCORING)
    ] = 0,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="RESULTS.jsonl",
            help="Keep each result as it is made; what an earlier run left there is not computed "
            "again. Of several models or sets a folder.",
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="PAGE.html",
            help="Also write a page with every recording, its texts and what differs.",
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
    markdown: Annotated[
        bool,
        typer.Option(
            "--markdown",
            help="As a Markdown table: clips down, models across.",
            rich_help_panel=_OUTPUT,
        ),
    ] = False,
    as_json: AsJson = False,
    *,
    computing: Computing,
) -> None:
    """Word and character error rates of models over sets of recordings.

    A recording that fails is named on stderr, counts as an empty transcript,
    and makes the exit code 1. Needs the extra `eval`.
    """
    if as_json and markdown:
        raise InputError("--json and --markdown are two forms of the same output: choose one")
    groups = _groups(by)
    if markdown and (groups or compare):
        raise InputError("--markdown is a table of clips, without --by and --compare")
    scorer = Scorer(scoring)
    if html is not None:
        check_target(html, force=True)
    if rescore:
        _refuse_beside_rescore({"-m": model, "--against": against, "-o": output})
        systems = rescored(sets, scorer, language)
    else:
        datasets = [read_dataset(path, scorer, against, language) for path in sets]
        files = _models(model)
        _check_comparison(compare, len(files))  # before the work
        opened = computing.load
        systems = _evaluated(files, datasets, output, scorer, opened)
    _check_comparison(compare, len(systems))
    if compare or markdown:
        systems = aligned(systems)
    report = report_values(systems, by=groups, compared=compare, seed=seed)
    if html is not None:
        write_page(html, systems, report, scorer)
        print_note(f"{html}: written")
    if as_json:
        print_result(json.dumps(report, ensure_ascii=False, indent=2))
    elif markdown:
        print_result(as_markdown(systems, Scorer(Scoring.PLAIN)))
    else:
        print_result(as_text(report))
    if any(found["mean"]["failed"] for found in report["models"]):
        raise typer.Exit(EXIT_FAILED)


def _groups(text: str | None) -> list[str]:
    names = [] if text is None else [name.strip() for name in text.split(",")]
    for name in names:
        if name not in GROUPS:
            raise InputError(f"--by is {text!r}, expected of {', '.join(GROUPS)}, with commas")
    return names


def _refuse_beside_rescore(options: dict[str, object]) -> None:
    for name, value in options.items():
        if value:
            raise InputError(f"--rescore runs no model, and {name} does not belong to it")


def _check_comparison(compare: bool, models: int) -> None:
    if compare and models < 2:
        raise InputError("--compare needs two models or more, and there is one")


def _models(names: list[str] | None) -> list[Path]:
    named = names or list(filter(None, [os.environ.get(MODEL_VARIABLE)]))
    if not named:
        raise InputError("-m is missing: the model to evaluate; or score results with --rescore")
    return [local_model(name) for name in named]


def _evaluated(
    files: Sequence[Path],
    datasets: Sequence[Dataset],
    output: Path | None,
    scorer: Scorer,
    opened: Callable[[Path], Model],
) -> Systems:
    names = unique_names(files)
    targets = results_files(output, names, [dataset.name for dataset in datasets])
    systems: dict[str, list[Evaluation]] = {}
    for name, file in zip(names, files, strict=True):
        with opened(file) as model:
            kept = [
                ResultsFile(targets[name, one.name], file, one.name, model.rounding)
                for one in datasets
            ]
            systems[name] = [
                one.evaluation(_rows(model, one, results, scorer), name, scorer)
                for one, results in zip(datasets, kept, strict=True)
            ]
    return systems


def _rows(model: Model, dataset: Dataset, results: ResultsFile, scorer: Scorer) -> list[Row]:
    rows: list[Row] = []
    count = len(dataset.items)
    resumed = sum(results.find(item) is not None for item in dataset.items)
    if resumed:
        print_note(f"{resumed} of {count} results are taken from {results.path}")
    evaluating = f"evaluating {dataset.name}"
    with telling_warnings(quiet=False), counting_progress(evaluating, count) as progress:
        for row in score_each(model, dataset, results, scorer):
            rows.append(row)
            if row.result.error:
                print_error(row.result.error)
            progress(len(rows))
    return rows
