"""A GGUF file against PyTorch on the same checkpoint: seconds, alternating in one process, memory.

python -m benchmarks.against_pytorch CHECKPOINT AUDIO MODEL.gguf... [--dtype bf16] [--repeats 5]

First each one runs alone in a process of its own, for its memory, unless --no-memory leaves that
out. Then all are loaded side by side and take turns; PyTorch runs the package's own definition of
the model. ONEDNN_MAX_CPU_ISA limits what PyTorch's products may use: AVX512_CORE_BF16 leaves out
the matrix unit. Prints Markdown.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from statistics import median

import granite_gguf
from granite_gguf.memory import peak_resident
from granite_gguf.sound.reading import read_audio

DTYPES = {"bf16": "bfloat16", "f32": "float32"}
PYTORCH = "PyTorch"


def runner(name: str, args: argparse.Namespace, stack: ExitStack) -> Callable[[], object]:
    """Something that transcribes the recording once; PyTorch is imported where it runs."""
    samples = read_audio(args.audio, 16_000)
    if name == PYTORCH:
        import torch

        from granite_gguf.reference import Reference

        torch.set_num_threads(args.threads)
        dtype = getattr(torch, DTYPES[args.dtype])
        reference = Reference.from_checkpoint(args.checkpoint, dtype)
        return lambda: reference.run(samples)
    model = stack.enter_context(
        granite_gguf.load(
            name, threads=args.threads, precision=args.precision, low_memory=args.low_memory
        )
    )
    return lambda: model.transcribe(samples)


def alone(name: str, args: argparse.Namespace) -> float:
    """Peak resident GB of a process that runs it twice."""
    command = [sys.executable, "-m", "benchmarks.against_pytorch", str(args.checkpoint)]
    command += [str(args.audio), name, "--dtype", args.dtype, "--precision", args.precision]
    command += ["--threads", str(args.threads), "--alone"]
    command += ["--low-memory"] if args.low_memory else []
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("audio", type=Path)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--dtype", choices=tuple(DTYPES), default="bf16")
    parser.add_argument("--precision", default="exact")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--low-memory", action="store_true")
    parser.add_argument("--no-memory", action="store_true", help="leave out the runs for memory")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    with ExitStack() as stack:
        if args.alone:
            run = runner(args.models[0], args, stack)
            run()
            run()
            print(peak_resident() / 1e9)
            return
        names = [*args.models, PYTORCH]
        memory = {} if args.no_memory else {name: alone(name, args) for name in names}
        runs = {name: runner(name, args, stack) for name in names}
        seconds: dict[str, list[float]] = {name: [] for name in names}
        for repeat in range(args.repeats + 1):
            for name, run in runs.items():
                started = time.perf_counter()
                run()
                if repeat:  # the first one warms up
                    seconds[name].append(time.perf_counter() - started)
    base = median(seconds[PYTORCH])
    duration = len(read_audio(args.audio, 16_000)) / 16_000
    print(f"{duration:.1f} s of audio, {args.threads} threads, precision {args.precision}, "
          f"PyTorch {version('torch')} {args.dtype}, median of {args.repeats}\n")  # fmt: skip
    of_memory = ("", "") if args.no_memory else (" peak GB | ratio |", "---:|---:|")
    print(f"| | seconds | ratio to PyTorch |{of_memory[0]}\n|---|---:|---:|{of_memory[1]}")
    for name in names:
        spent = median(seconds[name])
        label = name if name == PYTORCH else Path(name).name
        row = f"| {label} | {spent:.2f} | {spent / base:.2f} |"
        if memory:
            row += f" {memory[name]:.2f} | {memory[name] / memory[PYTORCH]:.2f} |"
        print(row)


if __name__ == "__main__":
    main()
