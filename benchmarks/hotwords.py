"""What it brings to listen for names, and what it costs, with 1 to 1,000 of them.

    python -m benchmarks.hotwords [MODEL.gguf] [--names 80] [--sentences 400] [--seed 0]

Needs espeak-ng. Names that the demonstration model has never heard, half of them of this world and
half made of syllables, are spoken by held-out voices in short sentences; each is listened for
alone and among others. Of other sentences of held-out voices, in which no name is said, those are
counted whose text changes. Seconds are those of one thread.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import dataclass
from pathlib import Path

import granite_gguf
from granite_gguf import Model, Transcript
from training.grammar import Sentence, sentence
from training.speech import SAMPLE_RATE, Samples, speak
from training.voices import test_voice

COUNTS = (1, 10, 100, 1000)
NAMES = (
    *("kowalski", "priya", "venkatesh", "nvidia", "kubernetes", "granite", "heathrow", "oslo"),
    *("tanaka", "berlinger", "zurich", "walter", "amanda", "felix", "barcelona", "ibuprofen"),
    *("photoshop", "siobhan", "nguyen", "mcallister", "sebastian", "vilnius", "porsche"),
    *("quentin", "brooklyn", "tokyo", "hannah", "charlotte", "mozart", "vivaldi", "jonathan"),
    *("patricia", "gregory", "elizabeth", "fernandez", "budapest", "helsinki", "toyota"),
    *("samsung", "szczecin"),
)
CARRIERS = (
    *("call {} tomorrow", "send a message to {}", "{} lives near the station"),
    *("the train to {} leaves at noon", "is {} in the kitchen", "remind me to call {} at noon"),
    "the meeting with {} is on monday",
)
ONSETS = (*"bdfghjklmnprstvwz", "br", "dr", "gr", "kl", "pr", "st", "tr")
CODAS = (*("",) * 3, *"nrlsmkd")


@dataclass(frozen=True)
class Spoken:
    """A sentence with a name in it, or without one."""

    text: str
    name: str
    samples: Samples


@dataclass
class Counts:
    """What became of the sentences with names."""

    names: int = 0
    found: int = 0
    words: int = 0
    right: int = 0

    def add(self, spoken: Spoken, text: str) -> None:
        """Count one. What stands beside the name is compared as a bag of words."""
        self.names += 1
        found = text.split()
        self.found += spoken.name in found
        for word in spoken.text.split():
            if word != spoken.name:
                self.words += 1
                self.right += word in found


def made_name(rng: random.Random) -> str:
    """Two to four syllables."""
    return "".join(
        rng.choice(ONSETS) + rng.choice("aeiou") + rng.choice(CODAS)
        for _ in range(rng.choice((2, 3, 3, 4)))
    )


def say(rng: random.Random, said: Sentence, name: str = "") -> Spoken:
    """By a voice that is held out."""
    return Spoken(said.text, name, speak(said, test_voice(rng)))


def texts(model: Model, spoken: list[Spoken], terms: list[str]) -> tuple[list[Transcript], float]:
    """What is heard, and the seconds of listening for the terms."""
    given = (one.samples for one in spoken)
    results = []
    for result in model.transcribe_many(given, hotwords=terms):
        if not isinstance(result, Transcript):
            raise result
        results.append(result)
    return results, sum(result.timings.get("hotwords", 0.0) for result in results)


def main() -> None:
    """Measure one model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("--names", type=int, default=80)
    parser.add_argument("--sentences", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    made = list(dict.fromkeys(made_name(rng) for _ in range(2 * max(COUNTS))))
    half = arguments.names // 2
    said = [*(NAMES[n % len(NAMES)] for n in range(half)), *made[: arguments.names - half]]
    carriers = [rng.choice(CARRIERS).format(name) for name in said]
    named = [say(rng, Sentence(s, s), name) for s, name in zip(carriers, said, strict=True)]
    others = [say(rng, sentence(rng)) for _ in range(arguments.sentences)]
    hours = sum(len(one.samples) for one in others) / SAMPLE_RATE / 3600
    pool = list(dict.fromkeys([*NAMES, *made]))
    with granite_gguf.load(arguments.model, threads=1) as model:
        plain, _ = texts(model, others, [])
        heard, _ = texts(model, named, [])
        print("| terms | names found | other words right | false alarms an hour | s an hour |")
        print("| ---: | ---: | ---: | ---: | ---: |")
        counts = Counts()
        for one, result in zip(named, heard, strict=True):
            counts.add(one, result.text)
        show("none", counts, 0.0, 0.0)
        for count in COUNTS:
            counts = Counts()
            for one in named:
                terms = [one.name, *rng.sample(pool, count)][:count]
                (result,), _ = texts(model, [one], list(dict.fromkeys(terms)))
                counts.add(one, result.text)
            found, seconds = texts(model, others, rng.sample(pool, count))
            changed = sum(a.text != b.text for a, b in zip(plain, found, strict=True))
            show(f"{count:,}", counts, changed / hours, seconds / hours)


def show(terms: str, counts: Counts, alarms: float, seconds: float) -> None:
    """A row of the table."""
    found, right = counts.found / counts.names, counts.right / counts.words
    print(f"| {terms} | {found:.0%} | {right:.1%} | {alarms:.1f} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
