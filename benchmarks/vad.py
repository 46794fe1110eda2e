"""What each way to leave out silence does with noise, and what it costs of speech.

`python -m benchmarks.vad [MODEL.gguf]` takes the recordings of benchmarks.noise and keeps all
text: of what is no speech it counts words a minute, of what is speech the percentage of words
that are right. Needs espeak-ng and the extra `vad`.
"""

from __future__ import annotations

import random
import sys

import numpy as np

import granite_gguf
from benchmarks.noise import no_speech, right, speech
from training.speech import SAMPLE_RATE

VADS = ("off", "energy", "silero")
CLIPS, SENTENCES = 20, 60


def main() -> None:
    rng, draw = np.random.default_rng(0), random.Random(0)
    given = [*no_speech(rng, CLIPS), *speech(rng, draw, SENTENCES)]
    with granite_gguf.load(*sys.argv[1:]) as model:
        found = {
            vad: [
                result.text.split()
                for result in model.transcribe_many(
                    (samples for *_, samples in given), min_confidence=0, vad=vad
                )
                if isinstance(result, granite_gguf.Transcript)
            ]
            for vad in VADS
        }
    print("| | " + " | ".join(VADS) + " |\n|---|" + "---:|" * len(VADS))
    for kind in dict.fromkeys(kind for kind, *_ in given):
        some = [n for n, (of, *_) in enumerate(given) if of == kind]
        said = [given[n][1] for n in some]
        minutes = sum(len(given[n][2]) for n in some) / SAMPLE_RATE / 60
        row = []
        for vad in VADS:
            texts = [found[vad][n] for n in some]
            if any(said):
                count = sum(right(text, words) for text, words in zip(said, texts, strict=True))
                row.append(f"{100 * count / len(' '.join(said).split()):.1f} %")
            else:
                row.append(f"{sum(map(len, texts)) / minutes:.1f}")
        print(f"| {kind} | " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
