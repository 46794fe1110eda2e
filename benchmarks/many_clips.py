"""Many short recordings: one at a time against side by side.

python -m benchmarks.many_clips AUDIO MODEL.gguf... [--seconds 3] [--clips 12] [--repeats 3]

Clips are cut from the recording at different places. The two ways take turns; the transcripts must
be the same. Prints Markdown.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import median

import numpy as np

import granite_gguf
from granite_gguf.sound.reading import read_audio

RATE = 16_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("audio", type=Path)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--clips", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    samples = read_audio(args.audio, RATE)
    length = int(args.seconds * RATE)
    starts = np.linspace(0, max(0, len(samples) - length), args.clips).astype(int)
    clips = [samples[start : start + length] for start in starts]
    print("| file | one at a time, clips/s | side by side, clips/s | ratio |\n|---|---:|---:|---:|")
    for path in args.models:
        with granite_gguf.load(path, threads=args.threads) as model:
            list(model.transcribe_many(clips[:4]))
            model.transcribe(clips[0])
            spent: dict[str, list[float]] = {"one": [], "many": []}
            for _ in range(args.repeats):
                started = time.perf_counter()
                alone = [model.transcribe(clip) for clip in clips]
                between = time.perf_counter()
                together = list(model.transcribe_many(clips))
                spent["many"].append(time.perf_counter() - between)
                spent["one"].append(between - started)
                tokens = [[s.token_ids for s in one.segments] for one in alone]
                for found, expected in zip(together, tokens, strict=True):
                    if not isinstance(found, granite_gguf.Transcript):
                        raise found
                    assert [s.token_ids for s in found.segments] == expected
        one, many = median(spent["one"]), median(spent["many"])
        rates = f"{len(clips) / one:.2f} | {len(clips) / many:.2f}"
        print(f"| {path.stem} | {rates} | {one / many:.2f} |", flush=True)


if __name__ == "__main__":
    main()
