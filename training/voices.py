"""Who speaks: accents and voice variants of espeak-ng, split between training and test.

A test voice is a variant that no training sentence was spoken with. Two accents are held out, too:
half of the test sentences are spoken with an unseen variant *and* an unseen accent.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

TRAINING_ACCENTS = (
    "en-us",
    "en-us",  # as often as two of the others
    "en-gb",
    "en-gb",
    "en-gb-scotland",
    "en-gb-x-gbclan",
    "en-gb-x-gbcwmd",
    "en-029",
)
HELD_OUT_ACCENTS = ("en-gb-x-rp", "en-us-nyc")

TRAINING_VARIANTS = (
    *("m1", "m2", "m4", "m5", "m6", "f1", "f3", "croak", "klatt", "klatt3", "klatt4"),
    *("adam", "Alicia", "Andrea", "Andy", "antonio", "aunty", "benjamin", "boris", "caleb"),
    *("ed", "edward", "Gene", "grandma", "gustave", "iven", "iven3", "Jacky", "john", "Lee"),
    *("Marco", "Mario", "max", "michel", "Mike", "pablo", "paul", "rob"),
    *("robert", "steph", "steph3", "travis", "victor", "zac", "anika", "Diogo", "Hugo", "norbert"),
)
DEVELOPMENT_VARIANTS = ("m8", "f4", "quincy", "linda")  # watched while training, never trained on
HELD_OUT_VARIANTS = (
    *("m3", "m7", "f2", "f5", "Annie", "belinda", "david", "Michael", "miguel", "Denis"),
)


@dataclass(frozen=True)
class Voice:
    """One way of speaking, in espeak-ng's own units."""

    accent: str
    variant: str
    words_per_minute: int
    pitch: int  # 0 to 99
    amplitude: int  # 0 to 200
    word_gap: int  # in units of 10 ms at the normal speed

    @property
    def name(self) -> str:
        return f"{self.accent}+{self.variant}"


def training_voice(rng: random.Random) -> Voice:
    """A random voice that the training sees."""
    return _draw(rng, TRAINING_ACCENTS, TRAINING_VARIANTS)


def development_voice(rng: random.Random) -> Voice:
    """A random voice to watch the training with: training accents, other variants."""
    return _draw(rng, TRAINING_ACCENTS, DEVELOPMENT_VARIANTS)


def test_voice(rng: random.Random) -> Voice:
    """A random held-out voice, every second time with a held-out accent."""
    accents = HELD_OUT_ACCENTS if rng.random() < 0.5 else TRAINING_ACCENTS
    return _draw(rng, accents, HELD_OUT_VARIANTS)


def _draw(rng: random.Random, accents: tuple[str, ...], variants: tuple[str, ...]) -> Voice:
    return Voice(
        accent=rng.choice(accents),
        variant=rng.choice(variants),
        words_per_minute=rng.randint(140, 225),
        pitch=rng.randint(25, 75),
        amplitude=rng.randint(50, 110),
        word_gap=rng.choice((0, 0, 0, 0, 1, 3)),
    )
