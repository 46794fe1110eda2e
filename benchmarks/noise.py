"""What a model makes of what is no speech, and what leaving out doubtful text costs of speech.

    python -m benchmarks.noise [MODEL] [--clips 40] [--sentences 120] [--seed 0]

Needs espeak-ng. Everything is made here: noise of three colours, the mains' hum, music of plucked
chords and drums, near silence that went through MP3 and Opus; and sentences of held-out voices by
themselves, in noise of 20 to 0 dB, and single words in up to 6 s of quiet. Each is transcribed once
with nothing left out. The tables then count, by the least confidence that is asked for, words a
minute of what is no speech, and of what is speech the share of words that were right and are left
out.
"""

from __future__ import annotations

import argparse
import io
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import partial

import numpy as np
import numpy.typing as npt
import soundfile

import granite_gguf
from granite_gguf import Segment
from granite_gguf.transcription.doubt import without_doubtful
from training.grammar import Sentence, sentence
from training.speech import SAMPLE_RATE, limited, speak, with_margins
from training.voices import test_voice

Samples = npt.NDArray[np.float32]
LONGEST = 6.0  # seconds
LEAST = (0.0, None, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8)
"""Confidences that are asked for; None is what is done where none is."""
RATIOS = (20, 10, 5, 0)  # decibels of speech to noise
WORDS = (
    *("stop", "monday", "seven", "k", "eight", "go", "red", "paris", "start", "i", "u", "tea"),
    *("twenty", "kitchen", "thank you", "go back", "save the file", "stop the music"),
)


@dataclass(frozen=True)
class Clip:
    """A recording: what kind, what is said in it, how long it is, what the model made of it."""

    kind: str
    said: str
    seconds: float
    segments: tuple[Segment, ...]

    def text(self, least: float | None) -> list[str]:
        """The words that are left, without capitals and marks."""
        kept = [without_doubtful(segment, least).text for segment in self.segments]
        return re.findall(r"[\w']+", " ".join(kept).lower())


def coloured(rng: np.random.Generator, count: int, power: float) -> Samples:
    """Noise whose power falls by so many times 6 dB an octave; 1 at its loudest."""
    spectrum = np.fft.rfft(rng.standard_normal(count))
    frequency = np.maximum(np.arange(len(spectrum)) / len(spectrum), 0.002)
    return _full(np.fft.irfft(spectrum * frequency**-power, count))


def hum(rng: np.random.Generator, count: int) -> Samples:
    """The mains and ten harmonics."""
    t, mains = np.arange(count) / SAMPLE_RATE, rng.choice((50, 60))
    waves = [
        rng.uniform() / k * np.sin(2 * np.pi * mains * k * t + rng.uniform(0, 6))
        for k in range(1, 12)
    ]
    return _full(np.sum(waves, axis=0))


def music(rng: np.random.Generator, count: int) -> Samples:
    """Chords of a major scale, plucked in time, with a drum here and there."""
    mixed = np.zeros(count)
    beat, root = rng.uniform(0.25, 0.6), rng.integers(40, 60)
    at = 0.0
    while at < count / SAMPLE_RATE:
        start = int(at * SAMPLE_RATE)
        t = np.arange(min(count - start, 2 * SAMPLE_RATE)) / SAMPLE_RATE
        for _ in range(rng.integers(1, 4)):
            note = root + rng.choice((0, 2, 4, 5, 7, 9, 11)) + 12 * rng.integers(0, 2)
            pitch = 440 * 2 ** ((note - 69) / 12)
            envelope = np.exp(-t / rng.uniform(0.2, 0.8)) * np.minimum(1, t / 0.01)
            tones = [np.sin(2 * np.pi * pitch * k * t) / k**1.3 for k in range(1, 8)]
            mixed[start : start + len(t)] += envelope * np.sum(tones, axis=0)
        if rng.random() < 0.5:
            drum = t[: SAMPLE_RATE // 10]
            hit = 1.5 * rng.standard_normal(len(drum)) * np.exp(-drum / 0.02)
            mixed[start : start + len(drum)] += hit
        at += beat * rng.choice((0.5, 1, 1, 2))
    return _full(mixed)


def coded(rng: np.random.Generator, count: int, **form: str) -> Samples:
    """Dither, or noise of -80 to -50 dBFS, as a coder leaves it."""
    if rng.random() < 0.5:
        quiet = rng.integers(-2, 3, count) / 32768
    else:
        quiet = coloured(rng, count, 0.5) * 10 ** rng.uniform(-4, -2.5)
    file = io.BytesIO()
    soundfile.write(file, quiet, SAMPLE_RATE, **form)
    file.seek(0)
    return soundfile.read(file, dtype="float32")[0]


LOUD: dict[str, Callable[[np.random.Generator, int], Samples]] = {
    "white noise": partial(coloured, power=0),
    "pink noise": partial(coloured, power=0.5),
    "brown noise": partial(coloured, power=1),
    "hum": hum,
    "music": music,
}
CODED = {
    "MP3 of silence": partial(coded, format="MP3"),
    "Opus of silence": partial(coded, format="OGG", subtype="OPUS"),
}


def no_speech(rng: np.random.Generator, clips: int) -> Iterator[tuple[str, str, Samples]]:
    """So many of each kind, 2 to 6 s long; what is loud has any level from -50 dBFS on."""
    for _ in range(clips):
        for kind, make in {**LOUD, **CODED}.items():
            samples = make(rng, int(rng.uniform(2, LONGEST) * SAMPLE_RATE))
            level = 10 ** rng.uniform(-2.5, 0) if kind in LOUD else 1.0
            yield kind, "", (level * samples).astype(np.float32)


def speech(
    rng: np.random.Generator, draw: random.Random, sentences: int
) -> Iterator[tuple[str, str, Samples]]:
    """So many sentences and half as many words of held-out voices, and each of them in noise."""
    for _ in range(sentences):
        while True:
            said = sentence(draw)
            samples = with_margins(speak(said, test_voice(draw)), rng)
            if len(samples) <= LONGEST * SAMPLE_RATE:
                break
        yield from _in_noise(rng, "sentences", said.text, samples, len(samples))
    for n in range(sentences // 2):
        word = WORDS[n % len(WORDS)]
        spoken = speak(Sentence(word, word), test_voice(draw))
        samples = np.zeros(int(rng.uniform(1.5, LONGEST) * SAMPLE_RATE), np.float32)
        at = rng.integers(0, len(samples) - len(spoken))
        samples[at : at + len(spoken)] = spoken
        quiet = samples * 0.01 / np.abs(samples).max()
        yield "words, peak at -40 dBFS", word, quiet
        yield from _in_noise(rng, "words", word, samples, len(spoken))


def _in_noise(
    rng: np.random.Generator, kind: str, said: str, samples: Samples, sounding: int
) -> Iterator[tuple[str, str, Samples]]:
    yield kind, said, samples
    power = np.sum(samples**2) / sounding
    for ratio in RATIOS:
        noise = coloured(rng, len(samples), rng.uniform(0, 0.6))
        noise *= np.sqrt(power / np.mean(noise**2) / 10 ** (ratio / 10))
        yield f"{kind}, {ratio} dB", said, limited(samples + noise)


def _full(samples: npt.NDArray[np.float64]) -> Samples:
    return (samples / np.abs(samples).max()).astype(np.float32)


def right(said: str, found: list[str]) -> int:
    """How many words of a sentence were found."""
    pairs = SequenceMatcher(None, said.split(), found, autojunk=False)
    return sum(block.size for block in pairs.get_matching_blocks())


def table(clips: list[Clip], *, spoken: bool) -> None:
    """By kind and least confidence: words a minute, or the percentage of words that are lost."""
    names = ["all stays" if x == 0 else "default" if x is None else f"{x:g}" for x in LEAST]
    print(f"| {'words lost, %' if spoken else 'words a minute'} | " + " | ".join(names) + " |")
    print("| --- |" + " ---: |" * len(LEAST))
    chosen = [clip for clip in clips if bool(clip.said) == spoken]
    for kind in dict.fromkeys(clip.kind for clip in chosen):
        some = [clip for clip in chosen if clip.kind == kind]
        row = []
        for least in LEAST:
            if spoken:
                before = sum(right(clip.said, clip.text(0.0)) for clip in some)
                after = sum(right(clip.said, clip.text(least)) for clip in some)
                share = (before - after) / sum(len(clip.said.split()) for clip in some)
                row.append(f"{100 * share:.1f}")
            else:
                minutes = sum(clip.seconds for clip in some) / 60
                row.append(f"{sum(len(clip.text(least)) for clip in some) / minutes:.1f}")
        print(f"| {kind} | " + " | ".join(row) + " |")
    print()


def main() -> None:
    """Measure one model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", help="a file, or a name such as demo:base")
    parser.add_argument("--clips", type=int, default=40)
    parser.add_argument("--sentences", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng, draw = np.random.default_rng(arguments.seed), random.Random(arguments.seed)
    given = [*no_speech(rng, arguments.clips), *speech(rng, draw, arguments.sentences)]
    with granite_gguf.load(arguments.model) as model:
        found = model.transcribe_many((samples for *_, samples in given), min_confidence=0)
        clips = []
        for (kind, said, samples), result in zip(given, found, strict=True):
            if not isinstance(result, granite_gguf.Transcript):
                raise result
            clips.append(Clip(kind, said, len(samples) / SAMPLE_RATE, result.segments))
    for spoken in (False, True):
        table(clips, spoken=spoken)


if __name__ == "__main__":
    main()
