"""What the arguments of a command name: recordings, from files, folders, patterns and lists."""

from __future__ import annotations

import glob
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from granite_gguf.errors import InputError
from granite_gguf.sound.reading import AUDIO_SUFFIXES

STDIN = "-"


@dataclass(frozen=True)
class Recording:
    """A recording to work on.

    Attributes:
        name: as the user knows it; ``-`` is standard input.
    """

    name: str

    @property
    def path(self) -> Path | None:
        """Where it is, or None for standard input."""
        return None if self.name == STDIN else Path(self.name)

    def open(self) -> Path | BinaryIO:
        """What the model reads it from."""
        return self.path or sys.stdin.buffer


def find_recordings(arguments: Sequence[str], batch: Path | None) -> list[Recording]:
    """The recordings that arguments and a list name, in their order.

    Args:
        arguments: files, folders (searched with their subfolders, in order of name), patterns
            such as ``*.wav`` for shells that do not expand them, or ``-``.
        batch: a text file with a file or folder on each line, as seen from the current folder.

    Raises:
        InputError: there are none, a folder or pattern has none, the list cannot be read, or
            standard input is named twice or is a terminal.
    """
    found = [recording for text in arguments for recording in _expand(text, patterns=True)]
    if batch is not None:
        found += [r for line in _lines(batch) for r in _expand(line, patterns=False)]
    if not found:
        raise InputError("there is nothing to transcribe: name a file, a folder, '-' or --batch")
    piped = sum(recording.path is None for recording in found)
    if piped > 1:
        raise InputError(f"'-' is given {piped} times, and standard input can be read only once")
    if piped and sys.stdin.isatty():
        raise InputError("'-' reads a recording from standard input, which is a terminal; pipe one")
    return found


def _expand(text: str, *, patterns: bool) -> Iterator[Recording]:
    path = Path(text)
    if text == STDIN:
        yield Recording(text)
    elif path.is_dir():
        inside = [p for p in sorted(path.rglob("*")) if p.suffix.lower() in AUDIO_SUFFIXES]
        files = [p for p in inside if p.is_file()]
        if not files:
            raise InputError(f"{text}: the folder has no recordings (.wav, .flac, .mp3, ...)")
        yield from (Recording(str(p)) for p in files)
    elif patterns and glob.has_magic(text) and not path.exists():
        matches = glob.glob(text, recursive=True)  # noqa: PTH207 (patterns may be absolute)
        names = [name for name in sorted(matches) if Path(name).is_file()]
        if not names:
            raise InputError(f"{text}: no file matches this pattern")
        yield from map(Recording, names)
    else:
        yield Recording(text)


def _lines(batch: Path) -> list[str]:
    try:
        text = batch.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{batch}: is not UTF-8 text (at byte {error.start})") from None
    except OSError as error:
        raise InputError(f"{batch}: cannot be read: {error.strerror}") from error
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        raise InputError(f"{batch}: names no recordings; write one path a line")
    return lines
