"""``granite-gguf bulk``: very many recordings, on one machine or many."""

from __future__ import annotations

import time
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from granite_gguf import passes
from granite_gguf.cli.console import counting_progress, print_note
from granite_gguf.cli.groups import command
from granite_gguf.cli.leaving import EXIT_FAILED
from granite_gguf.cli.model_names import local_model
from granite_gguf.cli.options import Cache, Kernels, ModelOrDemo, Precision, WordTimes
from granite_gguf.cli.wishes import Wishes
from granite_gguf.demo import DEMO_MODEL, DEMO_NOTE
from granite_gguf.ggml import default_threads
from granite_gguf.model import load
from granite_gguf.placing import kernel_choice
from granite_gguf.transcription.options import TranscribeOptions, divide

if TYPE_CHECKING:
    from granite_gguf.bulk.run import Summary

_machines = partial(typer.Option, rich_help_panel="Machines", show_default=False)

_SHOWN = 10  # reasons of failures


class Form(str, Enum):
    """What parts of the output are."""

    PARQUET = "parquet"
    JSONL = "jsonl"


@command
def bulk(
    recordings: Annotated[
        str,
        typer.Argument(
            metavar="INPUT",
            help="A folder, a pattern, a list with a name a line, JSON lines or Parquet (with "
            "`path`, or contents as `bytes` or `audio`): here, or at s3://, gs://, hf://.",
        ),
    ],
    output: Annotated[
        str,
        typer.Option(
            "-o",
            "--output",
            metavar="FOLDER",
            help="Where results go, a file for each block: here, or at s3:// or gs://. What is "
            "there already is not done again.",
        ),
    ],
    *,
    model: ModelOrDemo = None,
    form: Annotated[
        Form, typer.Option("-f", "--output-format", help="What is written.")
    ] = Form.PARQUET,
    actors: Annotated[
        int | None,
        _machines(
            min=1,
            metavar="N",
            help="Processes that transcribe; by default as many as there are CPUs for.",
        ),
    ] = None,
    cpus: Annotated[
        int | None,
        _machines(
            min=1,
            metavar="N",
            help="CPUs of each, which are its threads; by default 4, or all of a smaller machine.",
        ),
    ] = None,
    gpus: Annotated[
        float,
        _machines(min=0, metavar="N", help="GPUs of each, or the share of one.", show_default=True),
    ] = 0,
    block: Annotated[
        int | None,
        _machines(
            min=1,
            metavar="N",
            help="Recordings of a block, which becomes a file; by default 16 to 500.",
        ),
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Also do again what failed in an earlier run.")
    ] = False,
    word_times: WordTimes = False,
    wishes: Wishes,
    precision: Precision = kernel_choice.Precision.EXACT,
    kernels: Kernels = kernel_choice.AUTO,
    cache: Cache = passes.Cache.F16,
) -> None:
    """Transcribe very many recordings, with Ray.

    Ray is started on this machine, or used where RAY_ADDRESS names a cluster.
    The same command goes on after an interruption. A recording that fails has
    the reason in its row and stops nothing; the exit code is then 1. Needs the
    extra `ray`. On a cluster a model's file must be where every machine finds
    it.
    """
    # Extras, and long to import.
    from granite_gguf.bulk.inputs import find_rows  # noqa: PLC0415
    from granite_gguf.bulk.outputs import Output  # noqa: PLC0415
    from granite_gguf.bulk.run import (  # noqa: PLC0415
        Summary,
        choose_actors,
        ray_running,
        transcribe_rows,
        without,
    )

    if model is None:
        print_note(DEMO_NOTE)
    elif Path(model).exists():
        model = str(Path(model).absolute())
    options: TranscribeOptions = {"word_times": word_times, **wishes.options()}
    # What is wrong with these is seen here, before many find out.
    file = DEMO_MODEL if model is None else local_model(model)
    with load(file, threads=1, device="cpu", cache=cache.value) as loaded:
        loaded.check(divide({**options}).options)
    rows = find_rows(recordings)
    rounding = {"precision": precision.value, "cache": cache.value}
    settings = {"model": model or DEMO_MODEL.name, **rounding, **options}
    results = Output.open(output, form.value, settings)
    left = without(rows, results.settle(retry=retry_failed))
    if left.num_rows < rows.num_rows:
        done = rows.num_rows - left.num_rows
        print_note(f"{done} of {rows.num_rows} recordings are done already")
    if not left.num_rows:
        return
    loading = {"model": model, "kernels": kernels, **rounding, **options}
    summary = Summary()
    started = time.perf_counter()
    with ray_running(default_threads()):
        chosen = choose_actors(actors, cpus, gpus)
        print_note(f"actors: {chosen.count}, CPUs of each: {chosen.cpus}")
        with counting_progress("bulk", left.num_rows) as progress:
            for told in transcribe_rows(left, results, loading, chosen, block):
                summary.add(told)
                progress(summary.done + summary.failed)
        results.settle()
    _tell(summary, time.perf_counter() - started)
    if summary.failed:
        raise typer.Exit(EXIT_FAILED)


def _tell(summary: Summary, seconds: float) -> None:
    hours = summary.audio_seconds / 3600
    speed = summary.audio_seconds / seconds
    print_note(
        f"{summary.done} of {summary.done + summary.failed} recordings transcribed: {hours:.2f} h "
        f"of audio in {seconds / 3600:.2f} h, {speed:.1f}x real time"
    )
    reasons = sorted(summary.failures.items(), key=lambda item: -item[1])
    for reason, count in reasons[:_SHOWN]:
        print_note(f"failed: {count} by {reason}")
    if len(reasons) > _SHOWN:
        rest = sum(count for _, count in reasons[_SHOWN:])
        print_note(f"failed: {rest} by {len(reasons) - _SHOWN} other reasons")
