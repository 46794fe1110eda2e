"""Files that appear under their name only when they are complete, and how much of one is done."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from granite_gguf.errors import OutputError

Progress = Callable[[str, int, int], None]
"""Is told of every part written: the tensor at work, bytes done, bytes in all."""

_unfinished: set[Path] = set()  # temporary files that there are, or may be


def silent(_name: str, _written: int, _total: int) -> None:
    """Reports no progress."""


def is_audio_part(name: str) -> bool:
    """Whether a file is named as llama.cpp names the encoder and projector of a pair.

    >>> is_audio_part("mmproj-model-f16.gguf"), is_audio_part("granite-speech-4.1-2b-Q4_K_M.gguf")
    (True, False)
    """
    return name.lower().endswith(".gguf") and "mmproj" in name.lower()


def check_target(path: Path, *, force: bool) -> None:
    """See, before the work, that a file may be written.

    Raises:
        OutputError: ``path`` exists and ``force`` is not set, or cannot be a file's name.
    """
    try:
        if path.exists() and not force:
            raise OutputError(f"{path}: exists already; use --force to replace it")
        if not path.parent.is_dir():
            raise OutputError(f"{path}: there is no directory {path.parent}")
        if path.is_dir():
            raise OutputError(f"{path}: is a directory, expected the name of a file to write")
    except OSError as error:  # a folder that may not be searched, a name that is too long
        raise OutputError(f"{path}: cannot be written: {error.strerror}") from error


@contextmanager
def replacing(path: Path, *, force: bool) -> Iterator[Path]:
    """A temporary file beside ``path`` that takes its place when the block succeeds.

    Raises:
        OutputError: ``path`` exists and ``force`` is not set, or cannot be written.
    """
    check_target(path, force=force)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    _unfinished.add(temporary)
    try:
        temporary.touch(0o600, exist_ok=False)
    except OSError as error:
        _unfinished.discard(temporary)
        raise OutputError(f"{path}: cannot be written: {error.strerror}") from error
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        if force:
            temporary.replace(path)
        else:
            _place_new(temporary, path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)
        _unfinished.discard(temporary)


def remove_unfinished() -> None:
    """Take away temporary files of a process that is about to end.

    An interruption that comes just before a block begins, or when it is over, leaves its file.
    """
    for temporary in tuple(_unfinished):
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        _unfinished.discard(temporary)


def _place_new(temporary: Path, path: Path) -> None:
    """Give a file its name unless another has taken it meanwhile."""
    try:
        path.hardlink_to(temporary)
    except FileExistsError:
        raise OutputError(
            f"{path}: exists already, since a moment ago; use --force to replace it"
        ) from None
    except OSError:  # a file system without hard links
        check_target(path, force=False)
        temporary.replace(path)
