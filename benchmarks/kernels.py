"""Rates of matrix products: each weight type by ggml and by our kernels.

python benchmarks/kernels.py [--threads 2] [--repeats 7]

The product of a weight [in, out] with float32 activations [in, columns], in GFLOP/s: the best of
the repeats. Prints Markdown.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from granite_gguf.bench.products import Product
from granite_gguf.ggml import GGMLType, Packings, Products, Runtime, available_kernels
from granite_gguf.placing.kernel_choice import Kernel

TYPES = (
    *("F32", "F16", "BF16", "Q8_0", "Q6_K", "Q5_K", "Q4_K", "Q3_K", "Q2_K"),
    *("Q4_0", "Q4_1", "Q5_0", "Q5_1", "IQ4_NL", "IQ4_XS"),
)


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int)
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    runtime = Runtime("cpu", args.threads)
    packings = Packings(runtime)
    kernels = [
        Kernel(GGMLType[name], packing) for packing in (None, *packings.types) for name in TYPES
    ]
    for own in available_kernels():
        products = Products(runtime.threads, own, exact=True)
        takes = [n for n in TYPES if products.kernel(GGMLType[n]) == own]
        kernels += [Kernel(GGMLType[name], own=own) for name in takes]
    print(f"{runtime.device.description}, {runtime.threads} threads, GFLOP/s\n")
    print("| weights | " + " | ".join(shape.name for shape in SHAPES) + " |")
    print("|---|" + "---:|" * len(SHAPES))
    for kernel in kernels:
        cells = []
        for shape in SHAPES:
            packing, kind = kernel.packing, kernel.type
            if packing and not packings.supports(packing, kind, shape.width, shape.rows):
                break
            with Product(runtime, kernel, shape.width, shape.rows) as product:
                seconds = product.seconds(shape.columns, args.repeats)
            cells.append(f"{2e-9 * shape.width * shape.rows * shape.columns / seconds:.0f}")
        else:
            print(f"| {kernel} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
