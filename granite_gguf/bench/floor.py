"""The least time that a stage's matrix products take: their FLOPs over the best measured rate.

Every product is timed by itself in every kernel whose weights are at least as exact as the file's:
the file's own type, plain and packed, and the wider float types.

Below it lies the peak: what the products would take if each ran as fast as its kernel's
instructions can multiply at all, or as its weight can be read from memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import groupby

from granite_gguf.bench.products import Product
from granite_gguf.ggml import (
    BF16,
    F16,
    F32,
    GGMLType,
    Packings,
    Products,
    ProductShape,
    Runtime,
    available_kernels,
    measure_bandwidth,
    measure_peak,
    row_bytes,
)
from granite_gguf.placing.kernel_choice import Kernel


@dataclass(frozen=True)
class Floor:
    """What the products of a stage need.

    Attributes:
        flops: of all of them.
        seconds: at the best rates.
        peak: seconds at the processor's peak; None where that is not known.
        best: for each weight ``[width, rows]`` its fastest kernel, as text: that of most columns.
    """

    flops: float
    seconds: float
    peak: float | None
    best: Mapping[tuple[int, int], str]


def candidates(kind: GGMLType, packings: Packings, width: int, rows: int) -> list[Kernel]:
    """The kernels that multiply with a weight of this type as exactly as its file has it.

    Where there are kernels of ours nothing else comes near them.
    """
    if available_kernels():
        products = Products(1, exact=True)
        return [Kernel(k, own=products.kernel(k)) for k in dict.fromkeys((kind, F32))]
    wider = {F32: [F32], F16: [F16, F32], BF16: [BF16, F32]}
    plain = [Kernel(k) for k in wider.get(kind, [kind, F16, BF16, F32])]
    packed = [
        Kernel(kind, name) for name in packings.types if packings.supports(name, kind, width, rows)
    ]
    return plain + packed


class _Peak:
    """The least that products could take, by what the processor's threads do at most."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._products = Products(threads, exact=True)
        self._bandwidth = measure_bandwidth(threads)
        self._peaks: dict[str | None, float | None] = {None: None}

    def seconds(self, shape: ProductShape) -> float | None:
        """Of one product; None where its kernel does not tell."""
        kind = shape.kind if shape.weight else F32
        name = self._products.kernel(kind, shape.columns)
        if name not in self._peaks:
            self._peaks[name] = measure_peak(str(name), self._threads)
        if (peak := self._peaks[name]) is None:
            return None
        read = shape.rows * row_bytes(kind, shape.width) if shape.weight else 0
        return max(shape.flops / peak, read / self._bandwidth)


def measure_floor(
    runtime: Runtime,
    stages: Mapping[str, Counter[ProductShape]],
    repeats: int = 5,
    report: Callable[[int, int], None] | None = None,
) -> dict[str, Floor]:
    """Time every kind of product of the stages.

    Args:
        runtime: where the products run.
        stages: by stage, how often each product runs.
        repeats: of each measurement, of which the shortest counts.
        report: called with how many kinds of products are done and how many there are.

    Attention's products, of activations with each other, count at the best rate of a float32
    weight.
    """
    packings = Packings(runtime)
    kinds = sorted({shape for counts in stages.values() for shape in counts if shape.weight})
    seconds: dict[ProductShape, float] = {}
    best: dict[tuple[int, int], str] = {}
    rate = 0.0
    done = 0
    for (_, kind, width, rows), group in groupby(kinds, lambda shape: shape[:4]):
        if report:
            report(done, len(kinds))
        shapes = list(group)  # by their columns
        times: dict[ProductShape, dict[Kernel, float]] = {shape: {} for shape in shapes}
        for kernel in candidates(kind, packings, width, rows):
            with Product(runtime, kernel, width, rows) as product:
                for shape in shapes:
                    times[shape][kernel] = product.seconds(shape.columns, repeats)
        for shape, by_kernel in times.items():
            fastest = min(by_kernel, key=by_kernel.__getitem__)
            seconds[shape] = by_kernel[fastest]
            best[width, rows] = str(fastest)
            rate = max(rate, *(shape.flops / t for k, t in by_kernel.items() if k.type is F32))
        done += len(shapes)
    on_cpu = runtime.device.kind == "cpu" and available_kernels()
    at_most = _Peak(runtime.threads) if on_cpu else None
    found = {}
    for stage, counts in stages.items():
        floor = sum(n * seconds.get(shape, shape.flops / rate) for shape, n in counts.items())
        flops = sum(n * shape.flops for shape, n in counts.items())
        peaks = [at_most.seconds(shape) if at_most else None for shape in counts]
        known = [n * p for n, p in zip(counts.values(), peaks, strict=True) if p is not None]
        peak = sum(known) if len(known) == len(counts) else None
        of_stage = {(s.width, s.rows): best[s.width, s.rows] for s in counts if s.weight}
        found[stage] = Floor(flops, floor, peak, of_stage)
    return found
