"""How far word times are from the truth, on synthetic speech whose times are known.

    python -m benchmarks.word_times MODEL.gguf [--sentences 50] [--gap 0.0]

Needs espeak-ng. Each word of a sentence is spoken by itself, its silence cut off, and the words are
put one after the other, so that every start and end is known to the sample. Speech made this way
is choppier than what models are trained on: errors are upper bounds.

Only words that the model got right are compared: of the transcript and the sentence, the words
that an alignment of the two pairs as equal.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path

import numpy as np
import numpy.typing as npt

import granite_gguf
from training.grammar import Sentence, sentence
from training.speech import SAMPLE_RATE, speak
from training.voices import Voice, training_voice

QUIET = 0.01  # of the loudest sample: below it, the synthesizer's silence before and after a word
MARGIN = 0.25  # seconds of silence around a sentence


@dataclass(frozen=True)
class Spoken:
    """A word and where it is, in seconds."""

    text: str
    start: float
    end: float


def speak_words(
    texts: list[str], voice: Voice, gap: float
) -> tuple[npt.NDArray[np.float32], list[Spoken]]:
    """Words spoken one by one, `gap` seconds apart, and their times."""
    silence = np.zeros(int(MARGIN * SAMPLE_RATE), np.float32)
    pause = np.zeros(int(gap * SAMPLE_RATE), np.float32)
    parts, at, words = [silence], len(silence), []
    for text in texts:
        samples = speak(Sentence(text, text), voice)
        loud = np.flatnonzero(np.abs(samples) > QUIET * np.abs(samples).max())
        samples = samples[loud[0] : loud[-1] + 1]
        words.append(Spoken(text, at / SAMPLE_RATE, (at + len(samples)) / SAMPLE_RATE))
        parts += [samples, pause]
        at += len(samples) + len(pause)
    return np.concatenate([*parts, silence]), words


def errors(
    spoken: list[Spoken], found: tuple[granite_gguf.Word, ...]
) -> tuple[list[float], list[float]]:
    """Differences of starts and of ends, found less true, in seconds."""
    pairs = SequenceMatcher(None, [w.text for w in spoken], [w.text for w in found], autojunk=False)
    starts, ends = [], []
    for block in pairs.get_matching_blocks():
        for k in range(block.size):
            true, word = spoken[block.a + k], found[block.b + k]
            starts.append(word.start - true.start)
            ends.append(word.end - true.end)
    return starts, ends


def report(name: str, values: list[float]) -> None:
    """The median and the 95th percentile of the sizes, and the median with its sign."""
    sizes = np.abs(values)
    print(
        f"{name}: median error {1000 * np.median(sizes):.0f} ms, 95th percentile "
        f"{1000 * np.percentile(sizes, 95):.0f} ms, median bias {1000 * np.median(values):+.0f} ms"
    )


def main() -> None:
    """Measure one model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--sentences", type=int, default=50)
    parser.add_argument("--gap", type=float, default=0.0, help="seconds between words")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    starts: list[float] = []
    ends: list[float] = []
    said = heard = 0
    with granite_gguf.load(arguments.model) as model:
        for _ in range(arguments.sentences):
            texts = sentence(rng).text.split()
            samples, words = speak_words(texts, training_voice(rng), arguments.gap)
            transcript = model.transcribe(samples, word_times=True)
            a, b = errors(words, transcript.words)
            starts += a
            ends += b
            said += len(words)
            heard += len(a)
    print(f"{heard} of {said} words recognised and compared, {arguments.gap:g} s between words")
    report("starts", starts)
    report("ends", ends)


if __name__ == "__main__":
    main()
