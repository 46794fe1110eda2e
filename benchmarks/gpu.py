"""Passes of many recordings on a device of its own, and the whole pipeline: audio to text.

python -m benchmarks.gpu MODEL.gguf... [--device auto] [--batch 1,16,48,128] [--seconds 10]
    [--kernels auto|ggml] [--clips 512] [--tokens-per-second 3] [--operations BATCH] [--places]

Random weights make hypotheses of any length: in place of what is heard, each has as many random
tokens as speech of that length. Features are part of a pipeline, and of no pass. Prints Markdown:
median seconds of a pass, of its stages, and how many seconds of audio that is by the second; then
the same of a pipeline over all clips, which are noise of the given lengths.
"""

from __future__ import annotations

import argparse
import ctypes
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import granite_gguf
from benchmarks.operations import timed_operations
from granite_gguf import Model
from granite_gguf.arrays import Rows
from granite_gguf.ggml import Runtime
from granite_gguf.ggml.binding import ggml as c
from granite_gguf.passes import Options, Piece

RATE = 16_000
OPTIONS = ("device", "threads", "precision", "kernels")
# The binding has an int for what is a pointer.
c.ggml_backend_sched_get_tensor_backend.restype = ctypes.c_void_p


def clips(count: int, seconds: str) -> list[np.ndarray]:
    """Noise of a length, or of lengths in a range, the same each time."""
    rng = np.random.default_rng(0)
    least, _, most = seconds.partition("-")
    lengths = rng.uniform(float(least), float(most or least), count)
    noise = rng.normal(0, 0.05, int(RATE * max(lengths)) + RATE).astype(np.float32)
    starts = rng.integers(0, RATE, count)
    return [noise[a : a + int(RATE * n)] for a, n in zip(starts, lengths, strict=True)]


@contextmanager
def spoken(model: Model, per_second: float | None) -> Iterator[None]:
    """Let every hypothesis have as many tokens as speech of its length."""
    if per_second is None:
        yield
        return
    h = model.hparams
    windows = RATE / h.front_end.stride / h.hypothesis.pooling_window  # a second
    rng = np.random.default_rng(1)

    def tokens(ids: Rows) -> Rows:
        counts = [max(1, round(count / windows * per_second)) for count in ids.counts]
        return Rows.of([rng.integers(0, h.hypothesis.blank_id or 1000, n) for n in counts])

    for lane in model._lanes:
        lane.stages.read_hypothesis = tokens
    make = model._scheduler._new_lane

    def new_lane(number: int) -> Any:
        lane = make(number)
        lane.stages.read_hypothesis = tokens
        return lane

    model._scheduler._new_lane = new_lane
    yield


@contextmanager
def places(runtime: Runtime) -> Iterator[Counter[str]]:
    """Operations by the backend that computes them, and how often a graph changes over."""
    found: Counter[str] = Counter()
    run = runtime._run

    def watched(scheduler: Any, graph: Any, *args: Any) -> Any:
        found["graphs"] += 1
        found["divided into"] += c.ggml_backend_sched_get_n_splits(scheduler)
        for n in range(c.ggml_graph_n_nodes(graph.handle)):
            node = c.ggml_graph_node(graph.handle, n)
            backend = c.ggml_backend_sched_get_tensor_backend(scheduler, node)
            name = c.ggml_backend_name(backend).decode() if backend else "nowhere"
            operation = c.ggml_op_name(node.contents.op).decode()
            found[name] += 1
            if name == "CPU":
                found[f"CPU: {operation}"] += 1
        return run(scheduler, graph, *args)

    runtime._run = watched  # type: ignore[method-assign]
    yield found
    del runtime._run


def passes(model: Model, batch: Sequence[np.ndarray], repeats: int) -> dict[str, float]:
    """Median seconds of a pass and of its stages, after two others; of the first where none is
    to be repeated.
    """
    lane = model._lanes[0]
    prepared = [lane.prepare(Piece(0, samples)) for samples in batch]
    spent: list[dict[str, float]] = []
    for _ in range(repeats + 2 if repeats else 1):
        pieces = [Piece(0, p.samples, features=p.features) for p in prepared]
        started = time.perf_counter()
        lane.one_pass(pieces, Options(min_confidence=0))
        stages: Counter[str] = Counter()
        for piece in pieces:
            stages.update(piece.timings)
        spent.append({"pass": time.perf_counter() - started, **stages})
    return {name: median(one[name] for one in spent[2 if repeats else 0 :]) for name in spent[0]}


@contextmanager
def timed_kernels(device: Any) -> Iterator[dict[str, list[float]]]:
    """Seconds of every kernel and product of ours inside the block, which run one after another."""
    import cupy

    events: list[tuple[str, Any, Any]] = []
    run, product = device._run, device.product

    def timed(call: Any, name: str | None) -> Any:
        def wrapped(*args: Any, **options: Any) -> Any:
            begin, end = cupy.cuda.Event(), cupy.cuda.Event()
            begin.record(device._stream)
            found = call(*args, **options)
            end.record(device._stream)
            shape = "x".join(map(str, reversed(args[1].shape))) if name else ""
            events.append((f"{name} {shape}" if name else args[0], begin, end))
            return found

        return wrapped

    device._run, device.product = timed(run, None), timed(product, "product")
    seconds: dict[str, list[float]] = {}
    yield seconds
    del device._run, device.product
    device.wait()
    for name, begin, end in events:
        spent = cupy.cuda.get_elapsed_time(begin, end) / 1e3
        seconds.setdefault(name, []).append(spent)


def by_operation(model: Model, batch: Sequence[np.ndarray]) -> None:
    """Print where the seconds of a pass go; ggml's operations run each by itself."""
    if model._gpu is not None:
        device = model._lanes[0].stages.device
        with device.working(), timed_kernels(device) as operations:
            passes(model, batch, 0)
    else:
        with timed_operations(model._runtime) as operations:
            passes(model, batch, 0)
    total = sum(map(sum, operations.values()))
    print(f"\nBy operation, {len(batch)} clips, {total:.3f} s\n")
    for name, each in sorted(operations.items(), key=lambda of: -sum(of[1]))[:32]:
        print(f"{sum(each) / total:6.1%} {sum(each):.4f} s {len(each):5} {name}")


def pipeline(model: Model, everything: Sequence[np.ndarray]) -> None:
    """Print how fast clips go from samples to text, after they did once."""
    run = partial(model.transcribe_many, everything, min_confidence=0)
    list(run())
    model._scheduler.passes.clear()
    started = time.perf_counter()
    found = list(run())
    spent = time.perf_counter() - started
    for one in found:
        if not isinstance(one, granite_gguf.Transcript):
            raise one
    audio = sum(map(len, everything)) / RATE
    print(f"\nPipeline: {len(everything)} clips, {audio:.0f} s of audio in {spent:.3f} s, ", end="")
    print(f"{audio / spent:.0f} x real time; passes by their clips ", end="")
    print(dict(sorted(model.passes.items())), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--batch", default="1,16,48,128")
    parser.add_argument("--seconds", default="10")
    parser.add_argument("--clips", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--precision", default="exact")
    parser.add_argument("--kernels", default="auto")
    parser.add_argument("--tokens-per-second", type=float, default=3.0)
    parser.add_argument("--operations", type=int, metavar="BATCH", help="seconds by operation")
    parser.add_argument("--places", action="store_true", help="what the device leaves to the CPU")
    args = parser.parse_args()
    sizes = [int(n) for n in args.batch.split(",")] if args.batch else []
    for path in args.models:
        loading = time.perf_counter()
        options = {name: getattr(args, name) for name in OPTIONS}
        with granite_gguf.load(path, **options) as model, spoken(model, args.tokens_per_second):
            loading = time.perf_counter() - loading
            print(f"\n{path.name}, {model.device.description}, {args.precision}; ", end="")
            print(f"loaded in {loading:.1f} s\n")
            if args.places and model._gpu is None:
                with places(model._runtime) as found:
                    passes(model, clips(2, args.seconds), 1)
                print(", ".join(f"{name} {count}" for name, count in found.items()), "\n")
            print("| clips a pass | seconds | by stage | x real time |\n|---:|---:|---|---:|")
            for size in sizes:
                batch = clips(size, args.seconds)
                spent = passes(model, batch, args.repeats)
                audio = sum(map(len, batch)) / RATE
                whole = spent.pop("pass")
                stages = ", ".join(f"{name} {s:.4f}" for name, s in spent.items())
                print(f"| {size} | {whole:.4f} | {stages} | {audio / whole:.0f} |", flush=True)
            if args.operations:
                by_operation(model, clips(args.operations, args.seconds))
            if args.clips:
                pipeline(model, clips(args.clips, args.seconds))


if __name__ == "__main__":
    main()
