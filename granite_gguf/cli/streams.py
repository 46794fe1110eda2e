"""Standard output as the commands write to it: any character, and any fault of the disk behind it.

A character that the encoding lacks, such as Chinese on a Windows console of code page 1252, is
written as JSON escapes it (``\\u4e2d``), so that JSON stays JSON, and said so at the end. A write
that fails is an :class:`OutputError` like that of any other file.
"""

from __future__ import annotations

import codecs
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from granite_gguf.errors import OutputError

_ESCAPING = "granite_gguf.escaping"
_escaped: set[str] = set()  # the characters that the encoding of standard output lacks


def _escape(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    _escaped.update(lacking)
    units = lacking.encode("utf-16-be", "surrogatepass")
    text = "".join(f"\\u{units[i : i + 2].hex()}" for i in range(0, len(units), 2))
    return text, error.end


class _Results(io.TextIOWrapper):
    """Standard output, whose faults are errors of this package; a closed pipe stays one."""

    def write(self, text: str, /) -> int:
        with _faults():
            return super().write(text)

    def flush(self) -> None:
        with _faults():
            super().flush()


@contextmanager
def _faults() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except io.UnsupportedOperation as error:
        raise OutputError("standard output cannot be written: it is closed") from error
    except OSError as error:
        raise OutputError(f"standard output cannot be written: {error.strerror}") from error


def prepare_stdout() -> None:
    """Make standard output take every character; where there is none, writing is an error."""
    codecs.register_error(_ESCAPING, _escape)
    if sys.stdout is None:
        # A descriptor that may only be read, so that results are not lost without a word.
        sys.stdout = open(os.devnull, encoding="utf-8")  # noqa: PTH123, SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        old = sys.stdout
        encoding, lines, through = old.encoding, old.line_buffering, old.write_through
        sys.stdout = _Results(
            old.detach(), encoding, _ESCAPING, line_buffering=lines, write_through=through
        )


def finish_stdout() -> None:
    """Write what is still held back.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        sys.stdout.flush()
    except (OSError, OutputError) as error:
        _drop(sys.stdout)
        if isinstance(error, OutputError):
            raise


def finish_stderr() -> None:
    """Write what is still held back, or forget it: of a full disk there nobody can be told."""
    if sys.stderr is None:
        return
    try:
        sys.stderr.flush()
    except OSError:
        _drop(sys.stderr)


def _drop(stream: TextIO) -> None:
    # The interpreter flushes once more when it ends, and would end with another code.
    with open(os.devnull, "wb") as nothing:  # noqa: PTH123
        os.dup2(nothing.fileno(), stream.fileno())


def escaped_note() -> str | None:
    """What to tell of characters that had to be escaped, or None."""
    if not _escaped:
        return None
    some = ", ".join(f"U+{ord(c):04X}" for c in sorted(_escaped)[:5])
    return (
        f"note: standard output is {sys.stdout.encoding}, which lacks {some}"
        f"{', ...' if len(_escaped) > 5 else ''}: written as \\u escapes. "
        "PYTHONIOENCODING=utf-8 writes them as they are"
    )
