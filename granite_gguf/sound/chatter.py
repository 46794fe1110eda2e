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


_made: list[_Sink | None] = []
_making = [Lock()]


@contextmanager
def without_chatter() -> Iterator[None]:
    """Drop what libmpg123 prints on standard error within."""
    with _making[0]:
        if not _made:
            _made.append(_make_sink())
        sink = _made[0]
    if sink is None:
        yield
        return
    sink.enter()
    try:
        yield
    finally:
        sink.leave()


def _forget() -> None:
    """A child made by a fork has a stream of its own, and no lock that a lost thread holds."""
    for sink in filter(None, _made):
        sink.restore()
    _made.clear()
    _making[0] = Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
