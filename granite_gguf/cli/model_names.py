"""Models as the commands take them: a file, or a name on the Hub, fetched with a word about it."""

from __future__ import annotations

import os
from pathlib import Path

from granite_gguf.cli.console import print_note, writing_progress
from granite_gguf.cli.options import MODEL_VARIABLE
from granite_gguf.errors import InputError
from granite_gguf.hub import find_model, parse_name


def asked_model(model: str | None, demo: str | None) -> str | None:
    """The name of the model that is asked for; None where nobody asks.

    Args:
        model: what the option of that name says, or the variable that is its default.
        demo: the name of a demonstration model, which stands above the variable.

    Raises:
        InputError: both are on the command line.
    """
    if demo is None:
        return model
    if model is not None and model != os.environ.get(MODEL_VARIABLE):
        raise InputError("--demo and --model name two models: give only one of them")
    return f"demo:{demo}"


def local_mmproj(name: str | None, *, quiet: bool = False) -> Path | None:
    """The audio part of a pair, where there is one, as :func:`local_model` finds a model."""
    return None if name is None else local_model(name, quiet=quiet)


def local_model(name: str, *, quiet: bool = False) -> Path:
    """The file of a model, downloaded where needed.

    Args:
        name: as :func:`granite_gguf.hub.find_model` takes it.
        quiet: say nothing of a download.

    Raises:
        HubError: it cannot be fetched.
    """
    if parse_name(name) is None or quiet:
        return find_model(name)
    with writing_progress("Hugging Face Hub") as progress:
        return find_model(name, note=print_note, progress=progress)
