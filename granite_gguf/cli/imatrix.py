"""``granite-gguf imatrix``: which columns of the matrices matter."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from granite_gguf.cli.console import counting_progress, print_note, telling_warnings
from granite_gguf.cli.model_names import local_model
from granite_gguf.cli.options import MODEL_HELP, Device, Force, Kernels, Threads
from granite_gguf.model import load
from granite_gguf.placing.kernel_choice import AUTO
from granite_gguf.quantize import collect_importance


def imatrix(
    model: Annotated[str, typer.Argument(help=f"{MODEL_HELP} Best in F32, F16 or BF16.")],
    audio: Annotated[list[Path], typer.Argument(help="Recordings like those to be transcribed.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The file to write.")],
    threads: Threads = None,
    device: Device = "auto",
    kernels: Kernels = AUTO,
    force: Force = False,
) -> None:
    """Collect an importance matrix: the mean squares of every matrix's inputs."""
    with (
        telling_warnings(quiet=False),
        load(local_model(model), threads=threads, device=device, kernels=kernels) as loaded,
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
    print_note(f"{output}: {count} matrices from {len(audio)} recordings")
