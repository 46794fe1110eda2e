"""What cutting costs: errors of long audio in pieces, against its sentences one by one.

    python -m benchmarks.long_audio MODEL.gguf [--minutes 20] [--chunk-seconds 60 30 10]

Needs espeak-ng and jiwer. Sentences of known text are spoken by changing voices with pauses of 0.2
to 0.6 s and written to one file, which is then transcribed in pieces. For comparison, as many whole
sentences as fit in a piece are transcribed together: these pieces are as long, and cut where no
word can be hurt. A word lost or doubled at a cut shows as an error that they do not have. Cuts that
lie in a sentence are counted; they may lie between its words.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import jiwer
import numpy as np
import soundfile

import granite_gguf
from granite_gguf.memory import peak_resident
from training.grammar import sentence
from training.speech import SAMPLE_RATE, speak
from training.voices import training_voice


def main() -> None:
    """Measure one model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--chunk-seconds", type=float, nargs="+", default=[60.0])
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    texts: list[str] = []
    borders = [0]  # samples, in the middle of the pauses between sentences
    speech: list[tuple[float, float]] = []  # seconds of each sentence
    with tempfile.TemporaryDirectory() as folder, granite_gguf.load(arguments.model) as model:
        path = Path(folder) / "long.flac"
        with soundfile.SoundFile(path, "w", SAMPLE_RATE, 1) as file:
            while borders[-1] < arguments.minutes * 60 * SAMPLE_RATE:
                said = sentence(rng)
                pause = np.zeros(int(rng.uniform(0.1, 0.3) * SAMPLE_RATE), np.float32)
                samples = np.concatenate([pause, speak(said, training_voice(rng)), pause])
                texts.append(said.text)
                file.write(samples)
                first, last = borders[-1] + len(pause), borders[-1] + len(samples) - len(pause)
                speech.append((first / SAMPLE_RATE, last / SAMPLE_RATE))
                borders.append(borders[-1] + len(samples))
        for seconds in arguments.chunk_seconds:
            whole = list(whole_sentences(model, path, borders, seconds))
            report(f"{len(whole)} pieces of whole sentences up to {seconds:g} s", texts, whole)
            started = time.perf_counter()
            segments = list(model.transcribe_stream(path, chunk_seconds=seconds))
            spent = time.perf_counter() - started
            inside = sum(any(a < part.end < b for a, b in speech) for part in segments[:-1])
            report(
                f"{len(segments)} pieces up to {seconds:g} s, {inside} cuts in a sentence, "
                f"{spent:.0f} s of work",
                texts,
                [segment.text for segment in segments],
            )
    minutes, peak = borders[-1] / SAMPLE_RATE / 60, peak_resident() / 1e6
    print(f"{minutes:.1f} minutes of audio, peak resident {peak:.0f} MB")


def whole_sentences(
    model: granite_gguf.Model, path: Path, borders: list[int], seconds: float
) -> Iterator[str]:
    """The texts of pieces that begin and end between sentences."""
    start = 0
    for at, following in pairwise([*borders[1:], borders[-1] + int(seconds * SAMPLE_RATE)]):
        if following - start > seconds * SAMPLE_RATE:
            samples, _ = soundfile.read(path, start=start, stop=at, dtype="float32")
            yield model.transcribe(samples).text
            start = at


def report(name: str, expected: list[str], found: list[str]) -> None:
    """Word errors of the whole, by kind."""
    out = jiwer.process_words(" ".join(expected), " ".join(found))
    words = out.hits + out.substitutions + out.deletions
    print(
        f"{name}: {out.wer:.2%} word errors: {out.substitutions} wrong, {out.deletions} missing, "
        f"{out.insertions} too many of {words}"
    )


if __name__ == "__main__":
    main()
