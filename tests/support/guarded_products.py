"""Products of weights before and behind which there is no memory, by one kernel.

``python -m tests.support.guarded_products KERNEL`` prints each product before it is made: the last
line says which one it was that ended the process.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from itertools import product

import numpy as np
import numpy.typing as npt

from granite_gguf.ggml import GGMLType, Graph, Products, Runtime, WeightBuffer, mul_mat
from granite_gguf.ggml.quants import encode_rows, prepare_encoding

KINDS = (
    *("F32", "F16", "BF16", "Q8_0", "Q6_K", "Q5_K", "Q4_K", "Q3_K", "Q2_K"),
    *("Q5_0", "Q5_1", "Q4_0", "Q4_1", "IQ4_NL", "IQ4_XS"),
)
ROWS = (33, 64, 77)
COLUMNS = (1, 3, 9, 40)
WIDTH = 512


def guarded(stored: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.uint8], int]:
    """Memory between pages that cannot be read, and where in it these bytes begin: they end it."""
    page = mmap.PAGESIZE
    size = -(-stored.nbytes // page) * page
    memory = np.frombuffer(mmap.mmap(-1, size + 2 * page), np.uint8)
    begin = size - stored.nbytes
    memory[page + begin : page + size] = stored.reshape(-1)
    for place in (0, page + size):
        address = ctypes.c_void_p(memory.ctypes.data + place)
        if ctypes.CDLL(None, use_errno=True).mprotect(address, ctypes.c_size_t(page), 0):
            raise OSError(ctypes.get_errno(), "mprotect")
    return memory[page : page + size], begin


def main(kernel: str) -> None:
    runtime = Runtime("cpu", 2)
    for kind, rows, columns in product(KINDS, ROWS, COLUMNS):
        print(kind, rows, columns, flush=True)
        prepare_encoding(GGMLType[kind])
        weight = np.random.default_rng(rows).standard_normal((rows, WIDTH), dtype=np.float32)
        stored = encode_rows(GGMLType[kind], weight).view(np.uint8)
        memory, begin = guarded(stored)
        buffer = WeightBuffer(runtime, 1)
        tensor = buffer.add("w", [WIDTH, rows], GGMLType[kind])
        tensor.multiplier = Products(runtime.threads, kernel, exact=True)
        buffer.map_host(memory, {"w": begin})
        with Graph() as graph:
            given = graph.input("x", [WIDTH, columns])
            graph.output("y", mul_mat(tensor, given))
            y = runtime.compute(graph, {"x": np.ones((columns, WIDTH), np.float32)})["y"]
        buffer.close()
        if not np.isfinite(y).all():
            raise ValueError("the product is not finite")


if __name__ == "__main__":
    main(sys.argv[1])
