"""Rates of ggml's matrix products: each weight type, plain and packed, at the model's shapes.

python benchmarks/kernels.py [--threads 2] [--repeats 7]

The product of a weight [in, out] with float32 activations [in, columns], in GFLOP/s: the best of
the repeats, the types taking turns. Prints Markdown.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass

import numpy as np

from granite_gguf.ggml import GGMLType, Graph, Packings, Runtime, WeightBuffer, mul_mat
from granite_gguf.ggml.quants import encode_rows

TYPES = (
    *("F32", "F16", "BF16", "Q8_0", "Q6_K", "Q5_K", "Q4_K", "Q3_K", "Q2_K"),
    *("Q4_0", "Q4_1", "Q5_0", "Q5_1", "IQ4_NL", "IQ4_XS"),
)
COPIES = 4  # products in a graph, each with its own weight, so that none stays in the cache


@dataclass(frozen=True)
class Shape:
    """A product of the full-size model on 11 s of audio."""

    name: str
    width: int
    rows: int
    columns: int


SHAPES = (
    Shape("encoder up", 1024, 4096, 550),
    Shape("encoder down", 4096, 1024, 550),
    Shape("editor gate", 2048, 4096, 176),
    Shape("editor down", 4096, 2048, 176),
)


class Product:
    """One type in one kind of memory, ready to be timed."""

    def __init__(self, runtime: Runtime, shape: Shape, kind: GGMLType, packing: str | None) -> None:
        rng = np.random.default_rng(0)
        self.runtime = runtime
        self.flops = 2 * shape.width * shape.rows * shape.columns * COPIES
        self.weights = WeightBuffer(runtime, COPIES)
        names = [f"w{n}" for n in range(COPIES)]
        tensors = [self.weights.add(name, [shape.width, shape.rows], kind) for name in names]
        self.weights.allocate(packing and Packings(runtime).types[packing])
        content = rng.standard_normal((shape.rows, shape.width), dtype=np.float32)
        for name in names:
            self.weights.fill(name, encode_rows(kind, content))
        self.graph = Graph()
        x = self.graph.input("x", [shape.width, shape.columns])
        for name, tensor in zip(names, tensors, strict=True):
            self.graph.output(name, mul_mat(tensor, x))
        self.x = {"x": rng.standard_normal((shape.columns, shape.width), dtype=np.float32)}
        self.best = float("inf")

    def time(self) -> None:
        started = time.perf_counter()
        self.runtime.compute(self.graph, self.x)
        self.best = min(self.best, time.perf_counter() - started)

    @property
    def rate(self) -> float:
        return self.flops / self.best / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int)
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    runtime = Runtime("cpu", args.threads)
    packings = Packings(runtime)
    kinds = [(GGMLType[name], None) for name in TYPES]
    kinds += [(GGMLType[name], packing) for packing in packings.types for name in TYPES]
    print(f"{runtime.device.description}, {runtime.threads} threads, GFLOP/s\n")
    print("| weights | " + " | ".join(shape.name for shape in SHAPES) + " |")
    print("|---|" + "---:|" * len(SHAPES))
    rates: dict[tuple[GGMLType, str | None], list[str]] = {}
    for shape in SHAPES:
        products = {
            (kind, packing): Product(runtime, shape, kind, packing)
            for kind, packing in kinds
            if packing is None or packings.supports(packing, kind, shape.width, shape.rows)
        }
        for _ in range(args.repeats):
            for product in products.values():
                product.time()
        for key, product in products.items():
            rates.setdefault(key, []).append(f"{product.rate:.0f}")
            product.graph.close()
            product.weights.close()
    for (kind, packing), cells in rates.items():
        print(f"| {kind.name}{f' in {packing}' if packing else ''} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
