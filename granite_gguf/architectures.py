"""The architectures that are run: the one place that lists them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from granite_gguf.architecture import Architecture
from granite_gguf.nar.architecture import NAR_ARCHITECTURE
from granite_gguf.speech.architecture import SPEECH_ARCHITECTURE
from granite_gguf.storage import model_file
from granite_gguf.storage.dialects.dialect import Dialect
from granite_gguf.storage.model_file import ModelFile

ARCHITECTURES: tuple[Architecture[Any], ...] = (NAR_ARCHITECTURE, SPEECH_ARCHITECTURE)


def _dialects() -> list[Dialect[Any]]:
    return [dialect for architecture in ARCHITECTURES for dialect in architecture.dialects]


DIALECTS = tuple(dict.fromkeys(d.architecture for d in _dialects() if d.beside is None))
"""What the files that are whole models name as their architecture."""

HALVES = tuple(dict.fromkeys(d.architecture for d in _dialects() if d.beside is not None))
"""And those that are whole with another file beside them."""


def open_model_file(path: str | Path, mmproj: str | Path | None = None) -> ModelFile[Any]:
    """Map and check a file of any architecture and dialect.

    Args:
        path: the file.
        mmproj: the file with encoder and projector, where the model is a pair for llama.cpp; by
            default the one in the same folder that is named so.

    Raises:
        ModelFileError: the file is damaged, incomplete or inconsistent.
        UnsupportedModelError: it holds another architecture.
    """
    return model_file.open_model_file(path, _dialects(), mmproj)


def architecture_of(file: ModelFile[Any]) -> Architecture[Any]:
    """The architecture of a file."""
    return next(a for a in ARCHITECTURES if a.format is file.format)
