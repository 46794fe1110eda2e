"""What this processor can do at most: products of each kernel's instructions, and memory read.

python -m benchmarks.peak [--threads 2]

Products of what is in registers alone; memory in one stretch, larger than caches. Prints Markdown.
"""

from __future__ import annotations

import argparse

from granite_gguf.ggml import available_kernels, default_threads, measure_bandwidth, measure_peak
from granite_gguf.ggml.devices import list_devices


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=default_threads())
    args = parser.parse_args()
    print(f"{list_devices()[0].description}, {args.threads} threads\n")
    print("| kernel | GFLOP/s at most |\n|---|---:|")
    for name in available_kernels():
        peak = measure_peak(name, args.threads)
        print(f"| {name} | {'unknown' if peak is None else f'{peak / 1e9:.0f}'} |")
    print(f"\nmemory: {measure_bandwidth(args.threads) / 1e9:.1f} GB/s")


if __name__ == "__main__":
    main()
