"""Threads that have graphs computed, shared by the runtimes of a process.

Each calls the helpers of its graphs by OpenMP, which keeps them as its team. They meet after every
operation, of which a step of decoding has a thousand, and wait for one another actively. But where
a process has more threads in teams than processors, libgomp has them sleep, whether all of them
work or not. So runtimes do not keep threads of their own: one borrows the last that was used with
as many helpers, and there are no more than have ever worked at once.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Lock

from granite_gguf import memory
from granite_gguf.closing import Closing
from granite_gguf.forks import tell_after_fork


class _Shared:
    """Of all crews, by the size of their teams."""

    def __init__(self) -> None:
        self.after_fork()
        tell_after_fork(self)

    def after_fork(self) -> None:
        """No thread of the parent is here."""
        self.lock = Lock()
        self.crews: Counter[int] = Counter()
        self.idle: defaultdict[int, list[ThreadPoolExecutor]] = defaultdict(list)


_shared = _Shared()


class Crew(Closing):
    """What a runtime borrows its threads from.

    Args:
        size: of their teams.
    """

    def __init__(self, size: int) -> None:
        self._size, self._closed = size, False
        with _shared.lock:
            _shared.crews[size] += 1

    @contextmanager
    def thread(self) -> Iterator[ThreadPoolExecutor]:
        """One thread, which is free again at the end.

        Raises:
            OutOfMemoryError: the system refuses it.
            RuntimeError: the crew is closed.
        """
        if self._closed:
            raise RuntimeError("a closed runtime cannot compute")
        with _shared.lock:
            idle = _shared.idle[self._size]
            thread = idle.pop() if idle else None
        thread = thread or _started()
        try:
            yield thread
        finally:
            with _shared.lock:
                _shared.idle[self._size].append(thread)

    def close(self) -> None:
        """Borrow no more. Threads for which there is no crew any longer end."""
        if self._closed:
            return
        self._closed = True
        with _shared.lock:
            _shared.crews[self._size] -= 1
            idle = _shared.idle[self._size]
            surplus = max(0, len(idle) - _shared.crews[self._size])
            ended, _shared.idle[self._size] = idle[:surplus], idle[surplus:]
        for thread in ended:
            thread.shutdown()


def _started() -> ThreadPoolExecutor:
    thread = ThreadPoolExecutor(1, thread_name_prefix="granite-gguf")
    with memory.starting_threads():
        thread.submit(int).result()
    return thread
