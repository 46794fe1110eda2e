"""What it brings to listen for names, and what it costs, with 1 to 1,000 of them.

    python -m benchmarks.hotwords [MODEL] [--taught] [--names 80] [--sentences 400] [--seed 0]

Needs espeak-ng. Names that the demonstration models have never heard, half of them of this world
and half made of syllables, are spoken by held-out voices in short sentences; each is listened for
alone and among others. Of other sentences of held-out voices, in which no such name is said, those
are counted whose text changes. `--taught` asks for the other spelling of names whose two spellings
the autoregressive demonstration model knows. Seconds are those of one thread.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import dataclass
from typing import Any

import granite_gguf
from granite_gguf import Model, Transcript
from granite_gguf.speech.spec import HParams
from training.forms import SPELLINGS
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
    samples: Samples
    name: str = ""  # as it is to be written
    said: str = ""  # as it would be otherwise


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
        self.found += spoken.name in text.split()
        found = text.lower().split()
        for word in spoken.text.split():
            if word not in (spoken.name, spoken.said):
                self.words += 1
                self.right += word in found


def made_name(rng: random.Random) -> str:
    """Two to four syllables."""
    return "".join(
        rng.choice(ONSETS) + rng.choice("aeiou") + rng.choice(CODAS)
        for _ in range(rng.choice((2, 3, 3, 4)))
    )


def say(rng: random.Random, said: str, name: str = "", other: str = "") -> Spoken:
    """By a voice that is held out."""
    return Spoken(said, speak(Sentence(said, said), test_voice(rng)), name, other)


def texts(model: Model, spoken: list[Spoken], terms: list[str]) -> tuple[list[str], float]:
    """What is heard, and the seconds of what reads the terms."""
    given = (one.samples for one in spoken)
    asked: dict[str, Any] = {"hotwords": terms}
    if not terms and isinstance(model.hparams, HParams):
        asked = {"punctuation": False}  # as the instruction with keywords has it
    found, seconds = [], 0.0
    for result in model.transcribe_many(given, **asked):
        if not isinstance(result, Transcript):
            raise result
        found.append(result.text)
        seconds += sum(result.timings.get(part, 0.0) for part in ("hotwords", "language model"))
    return found, seconds


def named(rng: random.Random, count: int, made: list[str], *, taught: bool) -> list[Spoken]:
    """Sentences with a name."""
    if taught:
        pairs = [(spelled, said) for said, spelled in SPELLINGS.items() if said != "grey"]
    else:
        pairs = [(name, "") for name in (*NAMES[: count // 2], *made[: count - count // 2])]
    chosen = [pairs[n % len(pairs)] for n in range(count)]
    return [
        say(rng, rng.choice(CARRIERS).format(said or name), name, said) for name, said in chosen
    ]


def main() -> None:
    """Measure one model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", help="a file, or a name such as demo:base")
    parser.add_argument("--taught", action="store_true")
    parser.add_argument("--names", type=int, default=80)
    parser.add_argument("--sentences", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    made = list(dict.fromkeys(made_name(rng) for _ in range(2 * max(COUNTS))))
    with_names = named(rng, arguments.names, made, taught=arguments.taught)
    others = [say(rng, sentence(rng).text) for _ in range(arguments.sentences)]
    hours = sum(len(one.samples) for one in others) / SAMPLE_RATE / 3600
    pool = list(dict.fromkeys([*NAMES, *made]))
    if arguments.taught:
        pool = [name.title() for name in pool]
    with granite_gguf.load(arguments.model, threads=1) as model:
        plain, _ = texts(model, others, [])
        heard, _ = texts(model, with_names, [])
        print(
            "| terms | names found | other words right | without a name: words right "
            "| texts changed an hour | s an hour |"
        )
        print("| ---: | ---: | ---: | ---: | ---: | ---: |")
        show("none", with_names, heard, others, plain)
        for count in COUNTS:
            heard = []
            for one in with_names:
                terms = [one.name, *rng.sample(pool, count)][:count]
                heard += texts(model, [one], rng.sample(terms, count))[0]
            found, seconds = texts(model, others, rng.sample(pool, count))
            changed = sum(a.lower() != b.lower() for a, b in zip(plain, found, strict=True))
            show(f"{count:,}", with_names, heard, others, found, changed / hours, seconds / hours)


def show(
    terms: str,
    with_names: list[Spoken],
    heard: list[str],
    others: list[Spoken],
    found: list[str],
    changed: float = 0.0,
    seconds: float = 0.0,
) -> None:
    """A row of the table."""
    counts, without = Counts(), Counts()
    for one, text in zip(with_names, heard, strict=True):
        counts.add(one, text)
    for one, text in zip(others, found, strict=True):
        without.add(one, text)
    right, kept = counts.right / counts.words, without.right / without.words
    print(
        f"| {terms} | {counts.found / counts.names:.0%} | {right:.1%} | {kept:.1%} "
        f"| {changed:.1f} | {seconds:.0f} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
