"""The architectures that are run: the one place that lists them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from granite_gguf.architecture import Architecture
from granite_gguf.nar.architecture import NAR_ARCHITECTURE
from granite_gguf.speech.architecture import SPEECH_ARCHITECTURE
from granite_gguf.storage import model_file
from granite_gguf.storage.model_file import ModelFile

ARCHITECTURES: tuple[Architecture[Any], ...] = (NAR_ARCHITECTURE, SPEECH_ARCHITECTURE)

DIALECTS = tuple(
    dict.fromkeys(dialect.architecture for a in ARCHITECTURES for dialect in a.dialects)
)
"""What the files that are read name as their architecture."""


def open_model_file(path: str | Path) -> ModelFile[Any]:
    """Map and check a file of any architecture and dialect.

    Raises:
        ModelFileError: the file is damaged, incomplete or inconsistent.
        UnsupportedModelError: it holds another architecture.
    """
    return model_file.open_model_file(path, [d for a in ARCHITECTURES for d in a.dialects])


def architecture_of(file: ModelFile[Any]) -> Architecture[Any]:
    """The architecture of a file."""
    return next(a for a in ARCHITECTURES if a.format is file.format)
