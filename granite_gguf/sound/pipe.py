"""Pipes: bytes that come in order, once, and perhaps for ever.

    source → thread that reads ahead, as far as a bound → read, peek, rewind

A program that records does not wait for a model that computes: its samples are taken as they come.
"""

from __future__ import annotations

import threading
from typing import BinaryIO

from granite_gguf.memory import starting_threads

_AHEAD = 16 << 20  # bytes: nine minutes of a recorder's 16-bit samples at 16 kHz
_AT_ONCE = 1 << 16


class Pipe:
    """Bytes of a source that cannot seek.

    Until :meth:`forget` is called, everything read is kept, and :meth:`rewind` goes back to the
    start, so that one reader after another can try what comes.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._changed = threading.Condition()
        self._ahead = bytearray()
        self._ended = False
        self._closed = False
        self._error: OSError | ValueError | None = None
        self._kept: bytearray | None = bytearray()
        with starting_threads():
            threading.Thread(target=self._fill, name="granite-gguf-pipe", daemon=True).start()

    def read(self, count: int, /) -> bytes:
        """So many bytes; fewer at the end only.

        Raises:
            OSError: the source cannot be read.
        """
        with self._changed:
            self._await(count)
            data = bytes(self._ahead[:count])
            del self._ahead[:count]
            self._changed.notify_all()
        if self._kept is not None:
            self._kept += data
        return data

    def peek(self, count: int) -> bytes:
        """The next bytes, which stay to be read."""
        with self._changed:
            self._await(count)
            return bytes(self._ahead[:count])

    def rewind(self) -> None:
        """Go back to the start."""
        assert self._kept is not None, "the start of the pipe is forgotten"
        with self._changed:
            self._ahead[:0] = self._kept
            self._kept.clear()

    def forget(self) -> None:
        """Keep no longer what has been read."""
        self._kept = None

    def close(self) -> None:
        """Read no further; a read that waits in the thread ends with its source."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _await(self, count: int) -> None:
        self._changed.wait_for(lambda: len(self._ahead) >= min(count, _AHEAD) or self._over)
        if self._error is not None and len(self._ahead) < count:
            raise self._error

    @property
    def _over(self) -> bool:
        return self._ended or self._closed

    def _fill(self) -> None:
        # What waits for a whole buffer would hold back what has come.
        read_some = getattr(self._file, "read1", self._file.read)
        try:
            while True:
                data = read_some(_AT_ONCE)
                with self._changed:
                    if not data or self._closed:
                        break
                    self._ahead += data
                    self._changed.notify_all()
                    self._changed.wait_for(lambda: len(self._ahead) < _AHEAD or self._closed)
        except (OSError, ValueError) as error:  # ValueError: the file is closed
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()
