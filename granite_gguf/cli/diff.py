"""``granite-gguf diff``: models against a reference, stage by stage."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from granite_gguf.cli.console import print_note, print_result
from granite_gguf.cli.groups import command
from granite_gguf.cli.leaving import EXIT_FAILED
from granite_gguf.cli.model_names import local_model
from granite_gguf.cli.options import OUTPUT, AsJson, Computing, Force
from granite_gguf.errors import ComparisonError, InputError, printable
from granite_gguf.files import check_target
from granite_gguf.parity import StageResult, diff_model
from granite_gguf.parity.plot import load_matplotlib, plot
from granite_gguf.parity.report import as_markdown, as_text, as_values
from granite_gguf.parity.with_reference import recorded_by
from granite_gguf.recorded.file import ARCHITECTURE, architecture


@command
def diff(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL... REFERENCE AUDIO",
            help="One or more models, files or names on the Hugging Face Hub; what they are "
            "compared with, a file of `granite-gguf reference` or another model; the recording.",
        ),
    ],
    stages: Annotated[
        str | None,
        typer.Option(
            help="Only these stages, separated by commas; encoder_layers stands for all captured "
            "layers.",
            rich_help_panel="Judgement",
        ),
    ] = None,
    threshold: Annotated[
        list[str] | None,
        typer.Option(
            metavar="STAGE=X",
            help="The lowest cosine of a row, or agreement of ids or texts, that passes, in place "
            "of the stage's default; again for each stage.",
            rich_help_panel="Judgement",
        ),
    ] = None,
    as_json: AsJson = False,
    markdown: Annotated[
        bool,
        typer.Option(
            "--markdown",
            help="As a Markdown table; of several models, one with a column for each.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    plot_file: Annotated[
        Path | None,
        typer.Option(
            "--plot",
            metavar="OUT.png",
            help="Also draw the cosine of every row over time (extra `plot`).",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    force: Force = False,
    *,
    computing: Computing,
) -> None:
    """Compare models with a reference, every stage from the reference's own inputs.

    The reference is a file of recorded stages, or another model that computes
    them here. A fault shows at its own stage and not in those behind it;
    `transcribe` alone runs end to end. Default thresholds follow from what the
    stage's weights are stored as. The exit code is 0 when all stages pass, 1
    when one fails, 2 when the files cannot be compared.
    """
    if as_json and markdown:
        raise InputError("--json and --markdown are two forms of the same output: choose one")
    if force and plot_file is None:
        raise InputError("--force belongs to --plot, which is not given")
    if len(files) < 3:
        raise InputError(
            f"{len(files)} files are given, expected at least three: a model, a reference or "
            "another model, and the recording"
        )
    *names, audio_name = files
    chosen = None if stages is None else _split(stages)
    limits = _parse_thresholds(threshold or [])
    if plot_file is not None:
        load_matplotlib()  # found missing before the work, not after it
        check_target(plot_file, force=force)
    *models, reference = [local_model(name) for name in names]
    audio = Path(audio_name)
    _check_models(models)
    recorded = recorded_by(reference, audio, **asdict(computing))
    results: dict[str, list[StageResult]] = {}
    for path in models:
        with computing.load(path) as model:
            samples = model.load_audio(audio)
            results[_label(path, models)] = diff_model(
                model, recorded, samples, stages=chosen, thresholds=limits
            )
    if as_json:
        print_result(json.dumps(_values(results, reference, audio), ensure_ascii=False, indent=2))
    elif markdown:
        print_result(as_markdown(results))
    else:
        for label, result in results.items():
            title = f"{label}:\n" if len(models) > 1 else ""
            print_result(title + as_text(result) + ("\n" if len(models) > 1 else ""))
    if plot_file is not None:
        plot(results, plot_file, force=force)
        print_note(f"{plot_file}: drawn")
    if not all(stage.passed for result in results.values() for stage in result):
        raise typer.Exit(EXIT_FAILED)


def _split(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise InputError(f"--stages is {text!r}, expected names separated by commas")
    return names


def _parse_thresholds(texts: list[str]) -> dict[str, float]:
    limits: dict[str, float] = {}
    for text in texts:
        stage, _, number = text.partition("=")
        try:
            limits[stage] = float(number)
        except ValueError:
            raise InputError(
                f"--threshold is {text!r}, expected a stage and a number like encoder_output=0.999"
            ) from None
    return limits


def _check_models(models: list[Path]) -> None:
    """A reference file among the models is a mistake of order, and said to be one."""
    for path in models:
        if architecture(path) == ARCHITECTURE:
            raise ComparisonError(
                f"{path}: is a reference file, expected a model: the one reference comes last "
                "before the recording"
            )


def _label(path: Path, models: list[Path]) -> str:
    unique = sum(other.name == path.name for other in models) == 1
    return printable(path.name if unique else str(path))


def _values(
    results: dict[str, list[StageResult]], reference: Path, audio: Path
) -> dict[str, object]:
    return {
        "reference": str(reference),
        "audio": str(audio),
        "models": [
            {
                "model": label,
                "passed": all(stage.passed for stage in stages),
                "stages": as_values(stages),
            }
            for label, stages in results.items()
        ],
    }
