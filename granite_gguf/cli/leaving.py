"""Runs computation beside the main thread, so that Ctrl-C is heard while ggml computes."""

from __future__ import annotations

import os
import queue
import sys
import threading
from collections.abc import Iterable, Iterator
from typing import NoReturn, TypeVar

from granite_gguf.cli.console import print_error
from granite_gguf.memory import starting_threads

T = TypeVar("T")


def in_background(items: Iterable[T]) -> Iterator[T]:
    """The items, made by another thread; its exceptions are raised here.

    An interruption does not wait for the item being made: leave the process with :func:`leave`.
    """
    made: queue.SimpleQueue[tuple[str, T | BaseException | None]] = queue.SimpleQueue()
    stopped = threading.Event()

    def work() -> None:
        try:
            for item in items:
                made.put(("item", item))
                if stopped.is_set():
                    return
        except BaseException as error:  # carried over to the other thread
            made.put(("error", error))
        else:
            made.put(("end", None))

    with starting_threads():
        threading.Thread(target=work, daemon=True).start()
    try:
        while True:
            kind, value = made.get()
            if kind == "end":
                return
            if isinstance(value, BaseException):
                raise value
            yield value  # type: ignore[misc]
    finally:
        stopped.set()


def leave(code: int) -> NoReturn:
    """End the process at once, although a thread still computes inside ggml."""
    print_error("interrupted; what was finished is kept")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
