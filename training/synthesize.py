"""Make the data: training features, development features and held-out test recordings.

python -m training.synthesize DIR

    DIR/train-000.npy (frames, 160) float16   DIR/train-000.jsonl   one utterance a line, in order
    DIR/development-000.npy                   DIR/development-000.jsonl
    DIR/test/0000.flac ...                    DIR/test.jsonl

Of the training's utterances some hold a word that does not exist, for the encoder's letters.

Files that are there already are kept, so an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import soundfile
import torch

from granite_gguf.reference import FrontEndConfig, log_mel
from training.grammar import Sentence, paragraph, sentence, with_made_word
from training.speech import (
    SAMPLE_RATE,
    Samples,
    in_room,
    require_espeak,
    speak,
    with_margins,
    with_noise,
)
from training.voices import Voice, development_voice, test_voice, training_voice

SHARD = 500  # utterances
LONG_SHARE = 0.08  # several sentences in a row
MADE_SHARE = 0.15  # of the training's single sentences have a word that does not exist
ROOM_SHARE = 0.35
LONGEST = 10.0  # seconds
TEST_NOISE = (10.0, 30.0)  # decibels, of every second test recording


@dataclass(frozen=True)
class Utterance:
    """One line of an index."""

    text: str
    voice: str
    frames: int
    condition: str


Say = Callable[[random.Random], Sentence]
Draw = Callable[[random.Random], Voice]


def random_sentence(rng: random.Random) -> Sentence:
    """One sentence, now and then several."""
    return paragraph(rng, rng.choice((2, 3))) if rng.random() < LONG_SHARE else sentence(rng)


def training_sentence(rng: random.Random) -> Sentence:
    """The same, now and then with a word that does not exist."""
    said = random_sentence(rng)
    return with_made_word(said, rng) if rng.random() < MADE_SHARE else said


def utterance(rng: random.Random, draw: Draw, say: Say) -> tuple[Sentence, Voice, Samples, str]:
    """One clean or reverberated utterance of at most `LONGEST` seconds."""
    while True:
        what, voice = say(rng), draw(rng)
        noise = np.random.default_rng(rng.getrandbits(64))
        samples = with_margins(speak(what, voice), noise)
        if len(samples) <= LONGEST * SAMPLE_RATE:
            break
    if rng.random() < ROOM_SHARE:
        return what, voice, in_room(samples, noise), "room"
    return what, voice, samples, "clean"


def write_shard(path: Path, seed: str, draw: Draw, say: Say, count: int) -> None:
    """Features of `count` utterances side by side, and their index."""
    torch.set_num_threads(1)
    rng = random.Random(seed)
    config = FrontEndConfig()
    features, lines = [], []
    for _ in range(count):
        said, voice, samples, condition = utterance(rng, draw, say)
        mel = log_mel(torch.from_numpy(samples), config)
        features.append(mel.numpy().astype(np.float16))
        lines.append(json.dumps(asdict(Utterance(said.text, voice.name, len(mel), condition))))
    path.with_suffix(".jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    unfinished = path.with_suffix(".part.npy")
    np.save(unfinished, np.concatenate(features))
    unfinished.rename(path)


def write_test(directory: Path, seed: str, count: int, known: set[str]) -> None:
    """Recordings of sentences and voices that the training never saw."""

    def unknown(rng: random.Random) -> Sentence:
        return next(s for s in iter(partial(random_sentence, rng), None) if s.text not in known)

    rng = random.Random(seed)
    (directory / "test").mkdir(exist_ok=True)
    lines = []
    for number in range(count):
        said, voice, samples, condition = utterance(rng, test_voice, unknown)
        if number % 2:
            noise = np.random.default_rng(rng.getrandbits(64))
            samples = with_noise(samples, noise, rng.uniform(*TEST_NOISE))
            condition += "+noise"
        name = f"test/{number:04d}.flac"
        soundfile.write(directory / name, samples, SAMPLE_RATE, subtype="PCM_16")
        line = asdict(Utterance(said.text, voice.name, len(samples) // 320, condition))
        lines.append(json.dumps({"file": name} | line))
    (directory / "test.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def read_index(directory: Path, split: str) -> Iterator[Utterance]:
    """Every utterance of a split of features, in the order of its shards."""
    for path in sorted(directory.glob(f"{split}-*.npy")):
        for line in path.with_suffix(".jsonl").read_text(encoding="utf-8").splitlines():
            yield Utterance(**json.loads(line))


def main() -> None:
    """Make what is missing of the data."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--utterances", type=int, default=48_000)
    parser.add_argument("--test", type=int, default=400)
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    args = parser.parse_args()
    require_espeak()
    args.directory.mkdir(parents=True, exist_ok=True)

    plan: list[tuple[str, int, Draw, Say]] = [
        ("development", 0, development_voice, random_sentence)
    ]
    shards = range(args.utterances // SHARD)
    plan += [("train", n, training_voice, training_sentence) for n in shards]
    jobs = []
    with ProcessPoolExecutor(args.jobs) as pool:
        for split, number, draw, say in plan:
            path = args.directory / f"{split}-{number:03d}.npy"
            if not path.exists():
                seed = f"{args.seed} {path.stem}"
                jobs.append(pool.submit(write_shard, path, seed, draw, say, SHARD))
        for job in jobs:
            job.result()
    if not (args.directory / "test.jsonl").exists():
        known = {
            u.text for split in ("train", "development") for u in read_index(args.directory, split)
        }
        write_test(args.directory, f"{args.seed} test", args.test, known)


if __name__ == "__main__":
    main()
