"""What reads the checkpoints of every architecture that runs."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from granite_gguf.architectures import ARCHITECTURES
from granite_gguf.converters.checkpoint import CheckpointConfig, ConfigReader, read_json
from granite_gguf.errors import CheckpointError, brief
from granite_gguf.storage.model_file import ModelFile

READERS: tuple[ConfigReader, ...] = tuple(
    import_module(f"{__package__}.{architecture.room}.layouts").CONFIG
    for architecture in ARCHITECTURES
)


def read_config(directory: Path) -> CheckpointConfig:
    """Read a checkpoint's configuration, whatever its architecture and layout.

    Raises:
        CheckpointError: a file or a field is missing or wrong, or the model is another one.
    """
    path = directory / "config.json"
    root = read_json(path)
    for reader in READERS:
        layout = reader.recognise(root)
        if layout is not None:
            config = reader.read(directory, root, layout)
            problem = config.format.problem(config.hparams)
            if problem:
                raise CheckpointError(f"{path}: {problem}")
            return config
    titles, expected = zip(*((r.format.title, r.expected) for r in READERS), strict=True)
    raise CheckpointError(
        f"{path}: model_type is {brief(root.find('model_type'))}, which is no checkpoint of "
        f"{' or '.join(titles)}. Expected model_type {' or '.join(expected)}"
    )


def settled(file: ModelFile[Any]) -> ModelFile[Any]:
    """A GGUF file that was written elsewhere, with what it leaves open and can be known."""
    return next(r for r in READERS if r.format is file.format).settled(file)
