"""Times one matrix product in one kernel."""

from __future__ import annotations

import time
from contextlib import ExitStack

import numpy as np

from granite_gguf.closing import Closing
from granite_gguf.ggml import Graph, Packings, Products, Runtime, WeightBuffer, mul_mat
from granite_gguf.ggml.quants import encode_rows, prepare_encoding
from granite_gguf.placing.kernel_choice import Kernel

_CACHED_BYTES = 64e6  # more than this of weights in a graph, so that none stays in the cache


class Product(Closing):
    """A weight ``[width, rows]`` of random numbers, ready to be multiplied.

    Use as a context manager. Several copies of the weight are multiplied one after another, as a
    model's layers are.
    """

    def __init__(self, runtime: Runtime, kernel: Kernel, width: int, rows: int) -> None:
        self._runtime, self._width = runtime, width
        self._stack = ExitStack()
        prepare_encoding(kernel.type)
        rng = np.random.default_rng(0)
        weight = rng.standard_normal((rows, width), dtype=np.float32)
        weight.view(np.uint32)[:] &= 0xFFFF0000  # bfloat16 numbers, as the released weights are
        content = encode_rows(kernel.type, weight)
        self._copies = int(min(16, 1 + _CACHED_BYTES // content.nbytes))
        weights = WeightBuffer(runtime, self._copies)
        self._stack.callback(weights.close)
        names = [f"weight {n}" for n in range(self._copies)]
        self._tensors = tensors = {
            name: weights.add(name, [width, rows], kernel.type) for name in names
        }
        types = Packings(runtime).types
        weights.allocate(None if kernel.packing is None else types[kernel.packing])
        for name in names:
            weights.fill(name, content)
            if kernel.own:
                tensors[name].multiplier = Products(runtime.threads, kernel.own, exact=True)

    def seconds(self, columns: int, repeats: int) -> float:
        """The shortest time of one product with so many columns."""
        numbers = np.random.default_rng(0).standard_normal((columns, self._width), dtype=np.float32)
        readers = {name: lambda _: None for name in self._tensors}  # nothing is copied
        best = float("inf")
        with Graph() as graph:
            x = graph.input("x", [self._width, columns])
            for name, weight in self._tensors.items():
                graph.output(name, mul_mat(weight, x))
            for _ in range(repeats):
                started = time.perf_counter()
                self._runtime.compute(graph, {"x": numbers}, readers)
                best = min(best, time.perf_counter() - started)
        return best / self._copies

    def close(self) -> None:
        self._stack.close()
