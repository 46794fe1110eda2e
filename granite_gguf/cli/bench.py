"""``granite-gguf bench``: how fast a model runs here, and how fast it could."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from granite_gguf.bench import Measurement, measure
from granite_gguf.cli.console import counting_progress, kernel_lines, stdout
from granite_gguf.cli.model_names import MODEL_HELP, local_model
from granite_gguf.placing.kernel_choice import Precision
from granite_gguf.sizes import megabytes


def bench(
    model: Annotated[str, typer.Argument(help=MODEL_HELP)],
    audio: Annotated[Path, typer.Argument(help="The recording to transcribe.")],
    repeats: Annotated[int, typer.Option("-n", "--repeats", min=1, help="Timed runs.")] = 5,
    threads: Annotated[
        int | None,
        typer.Option(
            "-t", "--threads", min=1, help="CPU threads; by default one for each available core."
        ),
    ] = None,
    device: Annotated[
        str,
        typer.Option(
            "-d", "--device", help="'auto', 'cpu' or a device that `granite-gguf doctor` names."
        ),
    ] = "auto",
    precision: Annotated[
        Precision,
        typer.Option(help="'exact' keeps the file's types, 'fast' may round further."),
    ] = Precision.EXACT,
    low_memory: Annotated[
        bool,
        typer.Option("--low-memory", help="Keep one stage's weights in memory at a time."),
    ] = False,
    floor: Annotated[
        bool, typer.Option(help="Also time every matrix product by itself, for the ratio.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON object.")] = False,
) -> None:
    """Time a model, stage by stage.

    The floor is the time that a stage's matrix products take by themselves, each
    in the fastest kernel that is as exact as the file; the ratio says how far a
    stage is above it.
    """
    file = local_model(model)
    with counting_progress("timing products", 1) as progress:
        found = measure(
            file,
            audio,
            threads=threads,
            device=device,
            precision=precision,
            low_memory=low_memory,
            repeats=repeats,
            with_floor=floor,
            report=lambda done, total: progress(done / total),
        )
    if as_json:
        typer.echo(json.dumps(found.to_dict(), indent=2))
    else:
        _print(found)


def _print(found: Measurement) -> None:
    stdout.print(f"{escape(found.model)}: {megabytes(found.file_size)}")
    stdout.print(f"{escape(found.device)}, {found.threads} threads, precision {found.precision}")
    for line in kernel_lines(found.kernels):
        stdout.print(f"  {line}")
    table = Table(box=None, pad_edge=False)
    for title in ("seconds", "min", "median", "floor", "ratio"):
        table.add_column(title, justify="left" if title == "seconds" else "right")
    for name, spent in found.stages.items():
        limit = "" if spent.floor is None else f"{spent.floor:.3f}"
        ratio = "" if spent.ratio is None else f"{spent.ratio:.2f}"
        table.add_row(name, f"{spent.minimum:.3f}", f"{spent.median:.3f}", limit, ratio)
    stdout.print(table)
    stdout.print(
        f"{found.duration:.1f} s of audio, {found.real_time_factor:.1f} times real time; "
        f"loading {found.load:.2f} s; peak memory {megabytes(found.peak_memory)}; "
        f"{found.repeats} runs after one to warm up"
    )
