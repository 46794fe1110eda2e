"""Locks of runtimes that share a number of threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from threading import RLock

from granite_gguf.forks import tell_after_fork


class Turns:
    """A lock for each of ``count`` runtimes with a share of the threads, and one for all of them.

    A thread that holds one may take it again.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self.after_fork()
        tell_after_fork(self)

    def after_fork(self) -> None:
        """No thread of the parent holds anything here."""
        self._locks = [RLock() for _ in range(self._count)]

    @contextmanager
    def one(self, number: int) -> Iterator[None]:
        """Hold the lock of one."""
        with self._locks[number]:
            yield

    @contextmanager
    def all(self) -> Iterator[None]:
        """Hold every lock: nothing else computes meanwhile."""
        with ExitStack() as stack:
            for lock in list(self._locks):
                stack.enter_context(lock)
            yield
