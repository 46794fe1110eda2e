"""Hours of audio through one model: memory, time, and whether anything is lost.

python benchmarks/hours.py --noise 1 --speech 5

The noise is white; the speech is the samples of the demonstration model over and over, a pause
between two. Both are written to a temporary file as they are made. Memory is looked at after every
segment.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import soundfile

import granite_gguf
from benchmarks.long_life import in_use_kb, slope
from granite_gguf.demo import DEMO_MODEL, DEMO_SAMPLES
from granite_gguf.memory import peak_resident

RATE = 16_000
PAUSE = RATE // 2


def noise() -> Iterator[np.ndarray]:
    """White noise without end, a second at a time."""
    generator = np.random.default_rng(0)
    while True:
        yield (0.1 * generator.standard_normal(RATE)).astype(np.float32)


def speech() -> Iterator[np.ndarray]:
    """The samples in turn, without end."""
    pause = np.zeros(PAUSE, np.float32)
    for path in cycle(DEMO_SAMPLES):
        yield soundfile.read(path, dtype="float32")[0]
        yield pause


def write(path: Path, parts: Iterator[np.ndarray], seconds: float) -> None:
    """Write so many seconds of what is made, part by part."""
    left = int(seconds * RATE)
    with soundfile.SoundFile(path, "w", RATE, 1, "PCM_16") as file:
        while left > 0:
            part = next(parts)[:left]
            file.write(part)
            left -= len(part)


@dataclass(frozen=True)
class Watched:
    """What a recording came to.

    Attributes:
        seconds: of audio that the segments cover, each from where the one before ends.
        gaps: how many do not begin there.
        texts: their texts.
        memory: kB in use after each.
        spent: seconds of work.
    """

    seconds: float
    gaps: int
    texts: list[str]
    memory: list[int]
    spent: float


def watch(model: granite_gguf.Model, path: Path, chunk_seconds: float | None = None) -> Watched:
    """Transcribe a recording and look at memory after every segment."""
    started, end, gaps = time.perf_counter(), 0.0, 0
    texts, memory = [], []
    for segment in model.transcribe_stream(path, chunk_seconds=chunk_seconds):
        gaps += segment.start != end
        end = segment.end
        texts.append(segment.text)
        memory.append(in_use_kb())
    return Watched(end, gaps, texts, memory, time.perf_counter() - started)


def main() -> int:
    """Measure both recordings."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--noise", type=float, default=1.0, help="hours of noise")
    parser.add_argument("--speech", type=float, default=5.0, help="hours of speech")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        granite_gguf.load(DEMO_MODEL, threads=2, device="cpu") as model,
    ):
        for name, parts, hours in (
            ("noise", noise(), options.noise),
            ("speech", speech(), options.speech),
        ):
            path = Path(folder) / f"{name}.flac"
            write(path, parts, hours * 3600)
            seen = watch(model, path, 60)
            peak = peak_resident() / 1e6
            words = sum(len(text.split()) for text in seen.texts)
            print(
                f"{name}: {seen.seconds / 3600:.3f} of {hours:g} h in {len(seen.texts)} segments, "
                f"{seen.gaps} gaps, {words} words, {path.stat().st_size / 1e6:.0f} MB of FLAC; "
                f"{seen.spent:.0f} s, in use after the last segment {seen.memory[-1] / 1024:.0f} "
                f"MB, growth {slope(seen.memory):+.2f} kB a segment, peak resident {peak:.0f} MB",
                flush=True,
            )
            path.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
