"""How fast a file is quantized: all threads, against a plain loop over the same tensors.

python -m benchmarks.quantize_speed SOURCE.gguf WORK [--type q4_k] [--threads 2]

The loop decodes each matrix to float32, quantizes it whole on one thread and writes it to a file.
Each runs in a process of its own, for its peak memory. Prints Markdown.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from granite_gguf.architectures import open_model_file
from granite_gguf.ggml.quants import encode_rows
from granite_gguf.memory import peak_resident
from granite_gguf.quantize import make_plan, quantize


def by_package(args: argparse.Namespace) -> None:
    quantize(args.source, args.work / "package.gguf", args.type, threads=args.threads, force=True)


def by_loop(args: argparse.Namespace) -> None:
    file = open_model_file(args.source)
    with (args.work / "loop.bin").open("wb") as out:
        for tensor in make_plan(file, args.type).tensors:
            name, kind = tensor.spec.name, tensor.choice.type
            if kind is tensor.info.type:
                out.write(file.container.raw(name))
                continue
            rows = file.read(name)
            out.write(encode_rows(kind, rows.reshape(-1, rows.shape[-1])))


WAYS = {"granite-gguf quantize": by_package, "plain loop, one thread": by_loop}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--type", default="q4_k")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--way", choices=tuple(WAYS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    if args.way:
        started = time.perf_counter()
        WAYS[args.way](args)
        print(f"| {args.way} | {time.perf_counter() - started:.0f} | {peak_resident() / 1e6:.0f} |")
        return
    print("| | seconds | peak resident MB |\n|---|---:|---:|", flush=True)
    for way in WAYS:
        subprocess.run([sys.executable, "-m", "benchmarks.quantize_speed", str(args.source),
                        str(args.work), "--type", args.type, "--threads", str(args.threads),
                        "--way", way], check=True)  # fmt: skip


if __name__ == "__main__":
    main()
