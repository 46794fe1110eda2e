"""``granite-gguf convert``: a checkpoint, or a GGUF file that another tool wrote, to GGUF."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from granite_gguf.cli.console import print_note, writing_progress
from granite_gguf.cli.model_names import local_mmproj
from granite_gguf.cli.options import Force, Mmproj
from granite_gguf.converters import Conversion, OutType, convert_gguf
from granite_gguf.converters import convert as convert_checkpoint
from granite_gguf.converters.gguf_source import is_gguf
from granite_gguf.converters.hub import fetch_checkpoint
from granite_gguf.errors import InputError
from granite_gguf.sizes import megabytes


def convert(
    source: Annotated[
        str,
        typer.Argument(
            help="A checkpoint directory, a repository id of the Hugging Face Hub such as "
            "ibm-granite/granite-speech-4.1-2b-nar, or a GGUF file that another tool wrote."
        ),
    ],
    target: Annotated[
        Path | None,
        typer.Argument(
            metavar="[OUTPUT.gguf]",
            help="The file to write. Of a GGUF file, by default one beside it.",
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The same, as an option.")
    ] = None,
    mmproj: Mmproj = None,
    outtype: Annotated[
        OutType | None,
        typer.Option(
            help="f16 (of checkpoints the default): the language model's matrices F16, encoder and "
            "projector F32. bf16: every matrix BF16, which loses nothing of a bfloat16 checkpoint. "
            "f32: everything F32. Without it, the tensors of a GGUF file keep their types."
        ),
    ] = None,
    revision: Annotated[
        str | None,
        typer.Option(
            help="Branch, tag or commit to fetch from the Hub; of a directory or file, the "
            "revision to record in the file."
        ),
    ] = None,
    force: Force = False,
) -> None:
    """Convert a checkpoint, or a GGUF file that another tool wrote, to GGUF.

    All published layouts are recognised from their config.json, and all
    published dialects from their keys. The file appears under its name only
    when it is complete.
    """
    if target is not None and output is not None:
        raise InputError(f"both {target} and --output {output} name the file to write; give one")
    started, path = time.monotonic(), target or output
    if is_gguf(Path(source)):
        result, types = _from_gguf(Path(source), path, mmproj, outtype, revision, force=force)
    elif mmproj is not None:
        raise InputError(f"{source} is no GGUF file, so that there is no --mmproj to it")
    elif path is None:
        raise InputError("name the file to write, with -o or after the checkpoint")
    else:
        result, types = _from_checkpoint(source, path, outtype, revision, force=force)
    print_note(
        f"{result.path}: {megabytes(result.byte_count)}, {result.parameters / 1e6:,.1f} M "
        f"parameters from layout {result.layout.value} {types}, "
        f"{time.monotonic() - started:.1f} s"
    )


def _from_checkpoint(
    source: str, path: Path, outtype: OutType | None, revision: str | None, *, force: bool
) -> tuple[Conversion, str]:
    policy = outtype or OutType.F16
    checkpoint = fetch_checkpoint(source, revision)
    with writing_progress(f"writing {path.name}") as progress:
        result = convert_checkpoint(
            checkpoint.directory,
            path,
            outtype=policy,
            revision=checkpoint.revision,
            name=checkpoint.name,
            force=force,
            progress=progress,
        )
    return result, f"as {policy.value}"


def _from_gguf(
    source: Path,
    path: Path | None,
    mmproj: str | None,
    outtype: OutType | None,
    revision: str | None,
    *,
    force: bool,
) -> tuple[Conversion, str]:
    with writing_progress(f"converting {source.name}") as progress:
        result = convert_gguf(
            source,
            path,
            mmproj=local_mmproj(mmproj),
            outtype=outtype,
            revision=revision,
            force=force,
            progress=progress,
        )
    types = "with the types of its source" if outtype is None else f"as {outtype.value}"
    return result, types
