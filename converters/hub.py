"""Finds a checkpoint: a directory, or a repository of the Hugging Face Hub."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from granite_gguf.errors import CheckpointError

_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
_FILES = ("*.json", "*.jinja", "*.safetensors", "*.txt", "README.md")


@dataclass(frozen=True)
class FoundCheckpoint:
    """A checkpoint on this machine, its name and its revision where that is known."""

    directory: Path
    name: str
    revision: str | None


def fetch_checkpoint(
    source: str, revision: str | None = None, *, code: bool = False
) -> FoundCheckpoint:
    """A checkpoint directory as it is, or a repository downloaded into the Hub's cache.

    Args:
        source: a directory, or a repository id ``owner/name``.
        revision: branch, tag or commit.
        code: also fetch the Python files that a repository may carry.

    Raises:
        CheckpointError: neither exists, or the download failed.
    """
    directory = Path(source)
    if directory.is_dir():
        return FoundCheckpoint(directory, directory.resolve().name, revision)
    if directory.exists() or not _REPOSITORY.fullmatch(source):
        raise CheckpointError(
            f"{source}: is neither a checkpoint directory nor a repository id like "
            "ibm-granite/granite-speech-4.1-2b-nar"
        )
    # They take longer to import than the rest of the command line.
    from huggingface_hub import snapshot_download  # noqa: PLC0415

    from granite_gguf.hub.faults import FAULTS, explain  # noqa: PLC0415

    patterns = [*_FILES, "*.py"] if code else list(_FILES)
    try:
        path = Path(snapshot_download(source, revision=revision, allow_patterns=patterns))
    except FAULTS as error:
        raise CheckpointError(
            f"{source}: {explain(error, revision)}; there is no such directory either"
        ) from error
    # The Hub's cache keeps each commit in a folder of its own.
    return FoundCheckpoint(path, source.partition("/")[2], path.name)
