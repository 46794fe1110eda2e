"""``granite-gguf bench``: how fast a model runs here, and how fast it could."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from granite_gguf.bench import Measurement, measure
from granite_gguf.cli.console import (
    counting_progress,
    kernel_lines,
    print_result,
    stdout,
    telling_warnings,
)
from granite_gguf.cli.groups import command
from granite_gguf.cli.model_names import local_model
from granite_gguf.cli.options import MODEL_HELP, AsJson, Loading
from granite_gguf.errors import printable
from granite_gguf.sizes import megabytes


@command
def bench(
    model: Annotated[str, typer.Argument(help=MODEL_HELP)],
    audio: Annotated[Path, typer.Argument(help="The recording to transcribe.")],
    repeats: Annotated[int, typer.Option("-n", "--repeats", min=1, help="Timed runs.")] = 5,
    *,
    loading: Loading,
    floor: Annotated[
        bool, typer.Option(help="Also time every matrix product by itself, for the ratio.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Time a model, stage by stage.

    The floor is the time that a stage's matrix products take by themselves, each
    in the fastest kernel that is as exact as the file; the ratio says how far a
    stage is above it. The peak is what they would take at the most that the
    processor can multiply, or read from memory.
    """
    file = local_model(model)
    with telling_warnings(quiet=False), counting_progress("timing products", 1) as progress:
        found = measure(
            file,
            audio,
            **asdict(loading),
            repeats=repeats,
            with_floor=floor,
            report=lambda done, total: progress(done / total),
        )
    if as_json:
        print_result(json.dumps(found.to_dict(), indent=2))
    else:
        _print(found)


def _print(found: Measurement) -> None:
    stdout.print(f"{escape(printable(found.model))}: {megabytes(found.file_size)}")
    stdout.print(f"{escape(found.device)}, {found.threads} threads, precision {found.precision}")
    for line in kernel_lines(found.kernels):
        stdout.print(f"  {line}")
    table = Table(box=None, pad_edge=False)
    for title in ("seconds", "min", "median", "floor", "ratio", "peak"):
        table.add_column(title, justify="left" if title == "seconds" else "right")
    for name, spent in found.stages.items():
        limit = "" if spent.floor is None else f"{spent.floor:.3f}"
        ratio = "" if spent.ratio is None else f"{spent.ratio:.2f}"
        peak = "" if spent.peak is None else f"{spent.peak:.3f}"
        table.add_row(name, f"{spent.minimum:.3f}", f"{spent.median:.3f}", limit, ratio, peak)
    stdout.print(table)
    if found.decoding is not None:
        stdout.print(f"{found.tokens} tokens in {found.decoding}")
    stdout.print(
        f"{found.duration:.1f} s of audio, {found.real_time_factor:.1f} times real time; "
        f"loading {found.load:.2f} s; peak memory {megabytes(found.peak_memory)}; "
        f"{found.repeats} runs after one to warm up"
    )
