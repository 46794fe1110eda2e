"""``granite-gguf reference``: what PyTorch computes of a recording, as a file for ``diff``."""

from __future__ import annotations

import hashlib
import importlib
import time
from enum import Enum
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

from granite_gguf._version import __version__
from granite_gguf.cli.console import print_note, stderr
from granite_gguf.cli.options import Force
from granite_gguf.converters.hub import fetch_checkpoint
from granite_gguf.errors import MissingExtraError
from granite_gguf.files import check_target
from granite_gguf.recorded.file import write_reference
from granite_gguf.sizes import megabytes
from granite_gguf.sound.reading import read_audio

_SAMPLE_RATE = 16_000  # of every published layout


class DType(str, Enum):
    """What the reference is computed in."""

    F32 = "f32"
    BF16 = "bf16"


def reference(
    checkpoint: Annotated[
        str,
        typer.Argument(
            help="A checkpoint directory, or a repository id of the Hugging Face Hub such as "
            "ibm-granite/granite-speech-4.1-2b-nar."
        ),
    ],
    audio: Annotated[Path, typer.Argument(help="The recording.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The file to write.")],
    dtype: Annotated[
        DType, typer.Option(help="What to compute in; the released weights are bfloat16.")
    ] = DType.F32,
    upstream: Annotated[
        bool,
        typer.Option(
            "--upstream",
            help="Run the authors' modeling code instead of this package's. That of "
            "autoregressive models is in transformers; of others it lies in the checkpoint, and "
            "PYTHON CODE FROM THE CHECKPOINT IS EXECUTED. Needs the extra `upstream` and the whole "
            "model in memory.",
        ),
    ] = False,
    prompt: Annotated[
        str | None,
        typer.Option(
            help="The instruction, of a model that is given one; by default to transcribe."
        ),
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="The most tokens, of a model that writes one after the other; by default 200.",
        ),
    ] = None,
    revision: Annotated[
        str | None,
        typer.Option(
            help="Branch, tag or commit to fetch from the Hub; of a directory, the revision to "
            "record in the file."
        ),
    ] = None,
    force: Force = False,
) -> None:
    """Record every stage of a checkpoint in PyTorch, for `granite-gguf diff`.

    The published layouts of all models of the family are recognised. The stages
    are loaded one after the other; the largest, the language model's, are 6.5 GB
    in float32, or 7.4 GB. Needs the extra `reference`.
    """
    started = time.monotonic()
    check_target(output, force=force)
    module = load_reference("upstream" if upstream else "recording")
    found = fetch_checkpoint(checkpoint, revision, code=upstream)
    samples = read_audio(audio, _SAMPLE_RATE)
    record, note = (
        (module.record_upstream, print_note) if upstream else (module.record_checkpoint, _report)
    )
    recorded, about = record(
        found.directory, samples, dtype.value, note, prompt=prompt, max_tokens=max_tokens
    )
    about |= {
        "revision": found.revision or "",
        "dtype": dtype.value,
        "audio_sha256": hashlib.sha256(audio.read_bytes()).hexdigest(),
        "version": __version__,
        "torch_version": version("torch"),
    }
    size = write_reference(
        output,
        recorded,
        backend=f"transformers {version('transformers')}" if upstream else "granite_gguf.reference",
        model_dir=str(found.directory),
        about=about,
        force=force,
    )
    print_note(
        f"{output}: {megabytes(size)}, {len(recorded.arrays)} stage outputs of layout "
        f"{about['layout']} in {dtype.value}, {time.monotonic() - started:.1f} s"
    )


def load_reference(module: str) -> Any:
    """A module of `granite_gguf.reference`.

    Raises:
        MissingExtraError: what it needs is not installed.
    """
    try:
        return importlib.import_module(f"granite_gguf.reference.{module}")
    except ImportError as error:
        raise MissingExtraError(str(error)) from error


def _report(stage: str) -> None:
    if stderr.is_terminal:
        print_note(f"{stage} …")
