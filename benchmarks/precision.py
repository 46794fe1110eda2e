"""What `--precision fast` costs and buys: both precisions of a file against a reference.

python -m benchmarks.precision REF.gguf AUDIO MODEL.gguf... [--repeats 3]

REF.gguf comes from `granite-gguf reference`. Prints Markdown: lowest (mean) cosine of a row, shares
of equal ids and text, seconds (median).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import median

import granite_gguf
from benchmarks.quantization import measure
from granite_gguf.placing.kernel_choice import Precision
from granite_gguf.recorded.file import read_reference


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("reference", type=Path)
    parser.add_argument("audio", type=Path)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    recorded = read_reference(args.reference)
    print("| file | precision | GB | encoder_output | bpe_logits | projector | editor logits "
          "| hypothesis | editor top-1 | transcript | seconds |")  # fmt: skip
    print("|---|---|" + "---:|" * 9, flush=True)
    for path in args.models:
        for precision in Precision:
            cells = measure(path, recorded, args.audio, precision)
            with granite_gguf.load(path, precision=precision) as model:
                model.transcribe(args.audio)
                spent = []
                for _ in range(args.repeats):
                    started = time.perf_counter()
                    model.transcribe(args.audio)
                    spent.append(time.perf_counter() - started)
            row = " | ".join([path.stem, precision, *cells, f"{median(spent):.2f}"])
            print(f"| {row} |", flush=True)


if __name__ == "__main__":
    main()
