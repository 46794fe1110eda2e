"""``granite-gguf transcribe``: audio files to text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from granite_gguf.cli.console import print_error, print_note
from granite_gguf.demo import DEMO_MODEL, DEMO_NOTE
from granite_gguf.errors import AudioError
from granite_gguf.model import load


def transcribe(
    audio: Annotated[
        list[Path], typer.Argument(help="Audio files: WAV, FLAC, OGG, Opus, MP3, AIFF, any rate.")
    ],
    model: Annotated[
        Path | None,
        typer.Option(
            "-m",
            "--model",
            help="The GGUF file; by default the small demonstration model of this package.",
            envvar="GRANITE_GGUF_MODEL",
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            "-t",
            "--threads",
            min=1,
            help="CPU threads; by default one for each available core.",
            rich_help_panel="Computation",
        ),
    ] = None,
    device: Annotated[
        str,
        typer.Option(
            "-d",
            "--device",
            help="'auto', 'cpu' or a device that `granite-gguf doctor` names.",
            envvar="GRANITE_GGUF_DEVICE",
            rich_help_panel="Computation",
        ),
    ] = "auto",
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="One JSON object a line: file, text, hypothesis, duration, timings, token_ids.",
            rich_help_panel="Output",
        ),
    ] = False,
) -> None:
    """Transcribe audio files.

    The text of one file is printed as it is; of several, each line starts with the file's name
    and a tab. A file that fails is named on stderr, the others are still transcribed, and the
    exit code is 1.
    """
    if model is None:
        print_note(DEMO_NOTE)
        model = DEMO_MODEL
    failed = False
    with load(model, threads=threads, device=device) as loaded:
        for path in audio:
            try:
                transcript = loaded.transcribe(path)
            except AudioError as error:
                print_error(str(error))
                failed = True
                continue
            if as_json:
                line = json.dumps({"file": str(path), **transcript.to_dict()}, ensure_ascii=False)
            else:
                line = f"{path}\t{transcript.text}" if len(audio) > 1 else transcript.text
            typer.echo(line)
    if failed:
        raise typer.Exit(1)
