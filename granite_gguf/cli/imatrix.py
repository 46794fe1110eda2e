"""``granite-gguf imatrix``: which columns of the matrices matter."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from granite_gguf.cli.console import counting_progress, print_note, telling_warnings
from granite_gguf.cli.groups import command
from granite_gguf.cli.model_names import local_model
from granite_gguf.cli.options import MODEL_HELP, Computing, Force
from granite_gguf.quantize import collect_importance


@command
def imatrix(
    model: Annotated[str, typer.Argument(help=f"{MODEL_HELP} Best in F32, F16 or BF16.")],
    audio: Annotated[list[Path], typer.Argument(help="Recordings like those to be transcribed.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The file to write.")],
    *,
    computing: Computing,
    force: Force = False,
) -> None:
    """Collect an importance matrix: the mean squares of every matrix's inputs."""
    if computing.device == "auto":  # our kernels on a GPU are not observed
        computing = replace(computing, device="cpu")
    with (
        telling_warnings(quiet=False),
        computing.load(local_model(model)) as loaded,
        counting_progress("observing", len(audio)) as progress,
    ):
        count = collect_importance(
            loaded,
            audio,
            output,
            datasets=[path.name for path in audio],
            force=force,
            progress=progress,
        )
    recordings = "1 recording" if len(audio) == 1 else f"{len(audio)} recordings"
    print_note(f"{output}: {count} matrices from {recordings}")
