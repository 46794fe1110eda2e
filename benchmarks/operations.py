"""Where the time of a transcription goes, by operation of the compute graphs.

python benchmarks/operations.py MODEL.gguf AUDIO [--threads 2] [--precision exact] [--top 14]

Every operation runs by itself, so the sum is somewhat above a normal run. Prints Markdown.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import granite_gguf
from granite_gguf.ggml import GGMLType, Runtime
from granite_gguf.ggml.binding import ggml as c
from granite_gguf.ggml.runtime import UNWATCHED


@contextmanager
def timed_operations(runtime: Runtime) -> Iterator[dict[str, list[float]]]:
    """Seconds of every operation that runs inside the block, by its name and its types."""
    seconds: dict[str, list[float]] = defaultdict(list)
    started = 0.0

    def on_node(node: Any, asking: bool, _user_data: Any) -> bool:
        nonlocal started
        if asking:
            started = time.perf_counter()
        else:
            seconds[describe(node.contents)].append(time.perf_counter() - started)
        return True

    runtime.watcher = c.ggml_backend_sched_eval_callback(on_node)
    try:
        yield seconds
    finally:
        runtime.watcher = UNWATCHED


def describe(node: Any) -> str:
    name = c.ggml_op_name(node.op).decode()
    if node.op != c.GGML_OP_MUL_MAT:
        return name
    weight = node.src[0].contents
    return f"{name} {GGMLType(weight.type).name} {'x'.join(map(str, list(weight.ne)[:2]))}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("audio", type=Path)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--precision", default="exact")
    parser.add_argument("--top", type=int, default=14)
    args = parser.parse_args()
    with granite_gguf.load(args.model, threads=args.threads, precision=args.precision) as model:
        plain = [model.transcribe(args.audio).timings for _ in range(3)][-1]
        print("seconds:", {stage: round(spent, 3) for stage, spent in plain.items()}, "\n")
        mel = model.compute_mel(model.load_audio(args.audio))
        stages: dict[str, dict[str, list[float]]] = {}
        runtime = model._runtime
        with timed_operations(runtime) as stages["encoder"]:
            encoded = model.run_encoder(mel)
        with timed_operations(runtime) as stages["hypothesis"]:
            tokens = model.run_hypothesis(encoded.final, encoded.blank)
        with timed_operations(runtime) as stages["projector"]:
            audio = model.run_projector(encoded.captured)
        text = granite_gguf.nar.decoding.insert_slots(model.hparams.editor, tokens)
        with timed_operations(runtime) as stages["editor"]:
            model.run_editor(audio, text)
    for stage, seconds in stages.items():
        total = sum(map(sum, seconds.values()))
        print(f"\n| {stage}, {total:.2f} s | calls | ms | share |\n|---|---:|---:|---:|")
        for name, spent in sorted(seconds.items(), key=lambda item: -sum(item[1]))[: args.top]:
            print(f"| {name} | {len(spent)} | {sum(spent) * 1e3:.0f} | {sum(spent) / total:.0%} |")


if __name__ == "__main__":
    main()
