"""``granite-gguf convert``: a checkpoint to a GGUF file."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from granite_gguf.cli.console import print_note, writing_progress
from granite_gguf.converters import OutType
from granite_gguf.converters import convert as convert_checkpoint
from granite_gguf.converters.hub import fetch_checkpoint
from granite_gguf.sizes import megabytes


def convert(
    source: Annotated[
        str,
        typer.Argument(
            help="A checkpoint directory, or a repository id of the Hugging Face Hub such as "
            "ibm-granite/granite-speech-4.1-2b-nar."
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="The GGUF file to write.")],
    outtype: Annotated[
        OutType,
        typer.Option(
            help="f16: the editor's matrices F16, encoder and projector F32. bf16: every matrix "
            "BF16, which loses nothing of a bfloat16 checkpoint. f32: everything F32."
        ),
    ] = OutType.F16,
    revision: Annotated[
        str | None,
        typer.Option(
            help="Branch, tag or commit to fetch from the Hub; of a directory, the revision to "
            "record in the file."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
) -> None:
    """Convert a Granite Speech NAR checkpoint to GGUF.

    All three published layouts are recognised from their config.json. The file appears under its
    name only when it is complete.
    """
    started = time.monotonic()
    checkpoint = fetch_checkpoint(source, revision)
    with writing_progress(f"writing {output.name}") as progress:
        result = convert_checkpoint(
            checkpoint.directory,
            output,
            outtype=outtype,
            revision=checkpoint.revision,
            name=checkpoint.name,
            force=force,
            progress=progress,
        )
    print_note(
        f"{result.path}: {megabytes(result.byte_count)}, {result.parameters / 1e6:,.1f} M "
        f"parameters from layout {result.layout.value} as {outtype.value}, "
        f"{time.monotonic() - started:.1f} s"
    )
