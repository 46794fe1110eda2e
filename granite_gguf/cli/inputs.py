"""What the arguments of a command name: recordings, from files, folders, patterns and lists."""

from __future__ import annotations

import glob
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import BinaryIO, TypeVar

from granite_gguf.errors import InputError
from granite_gguf.sound.reading import AUDIO_SUFFIXES, recordings_of
from granite_gguf.sound.sndfile import RawFormat

STDIN = "-"
_CLOCK = r"((?:[0-9]+:(?:[0-5]?[0-9]:)?[0-5]?[0-9]|[0-9]+)(?:\.[0-9]+)?)"
_CLIP = re.compile(f"{_CLOCK}-{_CLOCK}?")

T = TypeVar("T")


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
            such as ``*.wav`` for shells that do not expand them, or ``-``. Hidden files, whose
            names begin with a dot, are taken where they are named only.
        batch: a text file with a file or folder on each line, as seen from the current folder, or
            `-` for such a list on standard input.

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
    piped += batch is not None and str(batch) == STDIN
    if piped > 1:
        raise InputError(f"'-' is given {piped} times, and standard input can be read only once")
    if piped and sys.stdin.isatty():
        raise InputError("'-' reads a recording from standard input, which is a terminal; pipe one")
    return found


def raw_format_of(rate: int | None, form: str | None, channels: int | None) -> RawFormat | None:
    """What options tell of samples without a header; None where they are not given."""
    if rate is None:
        if (form, channels) != (None, None):
            raise InputError(
                "--raw-format and --raw-channels describe samples without a header, whose rate "
                "must be told, too: add --raw-rate, such as --raw-rate 16000"
            )
        return None
    return RawFormat(
        rate,
        RawFormat.format if form is None else form,
        RawFormat.channels if channels is None else channels,
    )


def parse_clip(text: str) -> tuple[float, float | None]:
    """``START-END`` in seconds: each given so or as ``H:MM:SS``; without END to the end.

    Raises:
        InputError: it is none.

    >>> parse_clip("90-1:45:30.5")
    (90.0, 6330.5)
    """
    found = _CLIP.fullmatch(text)
    if found is None:
        raise InputError(
            f"--clip is {text!r}, expected START-END in seconds or as H:MM:SS, such as 90-120, "
            "1:30-2:00 or, to the end, 90-"
        )
    start, end = found.groups()
    return _seconds(start), _seconds(end) if end else None


def _seconds(clock: str) -> float:
    """Hours, minutes and seconds, or the last of them alone."""
    return sum(float(part) * 60.0**n for n, part in enumerate(reversed(clock.split(":"))))


def _expand(text: str, *, patterns: bool) -> Iterator[Recording]:
    path = Path(text)
    if text == STDIN:
        yield Recording(text)
    elif _is_folder(path):
        files = recordings_of(path)
        if not files:
            raise InputError(f"{text}: the folder has no recordings (.wav, .flac, .mp3, ...)")
        yield from (Recording(str(p)) for p in files)
    elif patterns and glob.has_magic(text) and not _is_file(path):
        matches = glob.glob(text, recursive=True)  # noqa: PTH207 (patterns may be absolute)
        names = [name for name in sorted(matches) if Path(name).is_file()]
        if not names:
            raise InputError(f"{text}: no file matches this pattern")
        yield from map(Recording, names)
    else:
        yield Recording(text)


def _lines(batch: Path) -> list[str]:
    name = "the list on standard input" if str(batch) == STDIN else str(batch)
    if str(batch) == STDIN and sys.stdin.isatty():
        raise InputError("--batch - reads a list from standard input, which is a terminal")
    try:
        data = sys.stdin.buffer.read() if str(batch) == STDIN else batch.read_bytes()
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{name}: is not UTF-8 text (at byte {error.start})") from None
    except OSError as error:
        raise InputError(f"{name}: cannot be read: {error.strerror}") from error
    # Names may hold any character but NUL, so that `find -print0` can tell even a line's end.
    lines = text.split("\0") if "\0" in text else text.replace("\r\n", "\n").split("\n")
    lines = [line for line in lines if line.strip()]
    if not lines:
        raise InputError(f"{name}: names no recordings; write one path a line")
    return lines


@dataclass(frozen=True)
class Shard:
    """One part of several: every ``count``-th thing, from the ``number``-th, 1 the first."""

    number: int
    count: int

    def of(self, things: Sequence[T]) -> Sequence[T]:
        """Its things, in order."""
        return things[self.number - 1 :: self.count]


def parse_shard(text: str) -> Shard:
    """``K/N`` as a part.

    Raises:
        InputError: it is not K of N, with K from 1 to N.
    """
    found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise InputError(f"--shard is {text!r}, expected K/N with K from 1 to N, such as 1/4")
    return Shard(int(found[1]), int(found[2]))


def dash_hint(arguments: Sequence[str]) -> str | None:
    """What to do about a file whose name begins with a dash and so was read as options, or None."""
    options = list(takewhile(lambda text: text != "--", arguments))
    for text in options:
        if text.startswith("-") and text != STDIN and not text.startswith("--"):
            path = Path(text)
            if path.suffix.lower() in AUDIO_SUFFIXES or _is_file(path):
                return (
                    f"{text} was read as options; for a file of that name write ./{text}"
                    " or put -- before the names"
                )
    return None


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # not to be searched, or too long for a name: opening it will say so
        return False


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # too long for a name, among others
        return False
