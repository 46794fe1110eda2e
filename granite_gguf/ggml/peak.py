"""What the processor can do at most: products of a kernel's instructions, and memory read."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import numpy.typing as npt

from granite_gguf import memory
from granite_gguf.ggml.kernels import make_products, read_memory

_ROUNDS = 1 << 21  # of a dozen products of vectors: some ten milliseconds
_READ = 256 << 20  # bytes, more than caches hold
_LINE = 64
_REPEATS = 7


def measure_peak(kernel: str, threads: int) -> float | None:
    """Operations in a second, two for each product, that all threads reach together.

    None where the kernel cannot tell.
    """
    rate = _rate(threads, lambda _: make_products(kernel, _ROUNDS))
    return 2 * rate or None


def measure_bandwidth(threads: int, content: npt.NDArray[np.uint8] | None = None) -> float:
    """Bytes in a second that all threads read from memory together.

    Args:
        threads: how many.
        content: what is read, such as of a mapped file, beginning at a multiple of 8 bytes and
            larger than caches; by default memory of the process's own, in large pages where the
            system has any.
    """
    if content is None:
        content = np.ones(_READ, np.uint8)  # untouched pages would all be the same one
    each = len(content) // threads // _LINE * _LINE

    def read(thread: int) -> int:
        read_memory(content.ctypes.data + thread * each, each)
        return each

    return _rate(threads, read)


def _rate(threads: int, work: Callable[[int], int]) -> float:
    """What ``work(thread)`` has done in a second, in all threads at once: the best of some."""
    together = Barrier(threads)

    def timed(thread: int) -> tuple[float, float, int]:
        together.wait()
        started = time.perf_counter()
        done = work(thread)
        return started, time.perf_counter(), done

    best = 0.0
    with memory.starting_threads(), ThreadPoolExecutor(threads) as pool:
        for _ in range(_REPEATS):
            starts, ends, done = zip(*pool.map(timed, range(threads)), strict=True)
            best = max(best, sum(done) / (max(ends) - min(starts)))
    return best
