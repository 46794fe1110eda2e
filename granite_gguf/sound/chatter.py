"""What a C library prints on standard error by itself, taken from there.

libmpg123, inside libsndfile, prints warnings and cannot be told not to. Descriptor 2 is left alone,
for it belongs to the whole process: it is the C library's own variable ``stderr`` that points
elsewhere while one of these calls runs, so that Python and other processes print as ever. What
other C code prints meanwhile is printed behind it. On a C library without such a variable nothing
is taken.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

from granite_gguf.forks import tell_after_fork

_UNBUFFERED = 2  # _IONBF, in glibc and on macOS
_MPG123 = re.compile(rb"\[src/libmpg123|Warning: |Note: |\s*$")


class _Sink:
    """A C stream into a pipe that never blocks: what does not fit in is lost."""

    def __init__(self, libc: ctypes.CDLL, variable: ctypes.c_void_p) -> None:
        self._lock = Lock()
        self._users = 0
        self._own: int | None = None
        self._variable = variable
        self._reading, writing = os.pipe()
        os.set_blocking(self._reading, False)
        os.set_blocking(writing, False)
        libc.fdopen.restype = ctypes.c_void_p
        libc.setvbuf.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t)
        # Never closed: another thread's C code may have read the variable and print a moment later.
        self._stream = libc.fdopen(writing, b"w")
        libc.setvbuf(self._stream, None, _UNBUFFERED, 0)

    def enter(self) -> None:
        """Take what is printed from here on."""
        with self._lock:
            if not self._users:
                self._own, self._variable.value = self._variable.value, self._stream
            self._users += 1

    def leave(self) -> None:
        """Print what libmpg123 did not, and take no more where nobody else is within."""
        with self._lock:
            self._users -= 1
            if not self._users:
                self._variable.value = self._own
            others = [line for line in self._printed() if not _MPG123.match(line)]
        if others:
            os.write(2, b"".join(others))

    def restore(self) -> None:
        """Let the C library print where it did, whoever is within."""
        if self._users:
            self._variable.value = self._own

    def _printed(self) -> list[bytes]:
        printed = b""
        try:
            while data := os.read(self._reading, 1 << 16):
                printed += data
        except BlockingIOError:
            pass
        return printed.splitlines(keepends=True)


def _make_sink() -> _Sink | None:
    if platform.libc_ver()[0] == "glibc":
        name = "stderr"
    elif sys.platform == "darwin":
        name = "__stderrp"
    else:
        return None
    libc = ctypes.CDLL(None)
    return _Sink(libc, ctypes.c_void_p.in_dll(libc, name))


class _Chatter:
    """The sink, which is made when it is first needed, and anew in a forked child."""

    def __init__(self) -> None:
        self._sink: _Sink | None = None
        self.after_fork()
        tell_after_fork(self)

    def after_fork(self) -> None:
        """A child has a stream of its own, and no lock that a lost thread holds."""
        if self._sink is not None:
            self._sink.restore()
        self._sink, self._known = None, False
        self._lock = Lock()

    def sink(self) -> _Sink | None:
        """None on a C library that tells no variable."""
        with self._lock:
            if not self._known:
                self._sink, self._known = _make_sink(), True
            return self._sink


_chatter = _Chatter()


@contextmanager
def without_chatter() -> Iterator[None]:
    """Drop what libmpg123 prints on standard error within."""
    sink = _chatter.sink()
    if sink is None:
        yield
        return
    sink.enter()
    try:
        yield
    finally:
        sink.leave()
