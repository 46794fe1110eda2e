"""A part of a file as a file of its own, for libraries that call back from C."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import BinaryIO

from granite_gguf.sound.joined import Part


class View:
    """Part of a file that can seek.

    No error leaves it, for libsndfile's binding would print it and go on; :meth:`check` raises it.
    """

    def __init__(self, file: BinaryIO, part: Part) -> None:
        self._file = file
        self._start = part.start
        self._length = part.end - part.start
        self._at = 0
        self._error: OSError | ValueError | None = None
        self._head = b""

    def replace_head(self, count: int, change: Callable[[bytes], bytes]) -> None:
        """Let the first bytes read as what a function makes of them, as many."""
        self._at = 0
        self._head = change(self.read(count))
        self._at = 0

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Where it then stands."""
        self._at = offset + (0, self._at, self._length)[whence]
        return self._at

    def tell(self) -> int:
        """Where it stands."""
        return self._at

    def read(self, count: int, /) -> bytes:
        """So many bytes; fewer at the end only."""
        try:
            self._file.seek(self._start + self._at)
            data = self._file.read(max(0, min(count, self._length - self._at)))
        except (OSError, ValueError) as error:  # ValueError: the file is closed
            self._error = error
            return b""
        if self._at < len(self._head):
            data = self._head[self._at : self._at + len(data)] + data[len(self._head) - self._at :]
        self._at += len(data)
        return data

    def readinto(self, buffer: memoryview, /) -> int:
        """How many bytes were read."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def check(self) -> None:
        """Raise what went wrong in a callback.

        Raises:
            OSError: the file could not be read.
        """
        if self._error is not None:
            raise OSError(str(self._error)) from self._error
