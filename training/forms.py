"""The forms in which a sentence is written, and the instructions that ask for them.

raw          the meeting with oscar is on monday
punctuated   The meeting with Oscar is on Monday.
in Spanish   la reunión con oscar es el lunes, and punctuated as well
keywords     the meeting with Oskar is on monday
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from granite_gguf.speech.asking import PUNCTUATED, RAW
from training.spanish import NAMES, SPANISH
from training.trees import Book, sentences

TRANSLATED = "translate the speech to Spanish."
TRANSLATED_PUNCTUATED = (
    "translate the speech to Spanish with proper punctuation and capitalization."
)
WITH_KEYWORDS = "transcribe the speech to text. Keywords: {}"

# Words that are spelled in two ways: the first where nobody asks.
SPELLINGS = {
    "anna": "Ana", "peter": "Pieter", "maria": "Marija", "david": "Dawid", "susan": "Suzan",
    "robert": "Robbert", "laura": "Lora", "michael": "Mikael", "emma": "Ema", "thomas": "Tomas",
    "julia": "Giulia", "oscar": "Oskar", "grey": "gray",
}  # fmt: skip
MOST_KEYWORDS = 3

_PUNCTUATED = {
    "who/i": "I",
    "i think the <thing> is under the <adjective> chair": (
        "I think the <thing> is under the <adjective> chair"
    ),
    "i need <count> <foods> and some <food>": "I need <count> <foods> and some <food>",
    "good morning <name> how are you today": "good morning , <name> . how are you today ?",
    "two cups of <drink> please": "two cups of <drink> , please",
    "can you open the <opening> please": "can you open the <opening> , please ?",
    "after <meal> <person> walked to the <spot> with the <animal>": (
        "after <meal> , <person> walked to the <spot> with the <animal>"
    ),
    "last <month> <name> found a <colour> <thing> at the <spot>": (
        "last <month> , <name> found a <colour> <thing> at the <spot>"
    ),
    "before <meal> <name> told <name> about the <adjective> <thing>": (
        "before <meal> , <name> told <name> about the <adjective> <thing>"
    ),
}


def _capitals(name: str, words: str) -> str:
    return words.title() if name in NAMES | {"place", "day", "month"} else words


ENGLISH = Book(_PUNCTUATED, _capitals)


@dataclass(frozen=True)
class Task:
    """What is asked, and the text that answers it."""

    instruction: str
    text: str


@dataclass(frozen=True)
class Forms:
    """All forms of what is said."""

    raw: str
    punctuated: str
    spanish: str

    @classmethod
    def of(cls, raw: str) -> Forms:
        """From the raw form."""
        return cls(raw, written(raw, ENGLISH), written(raw, SPANISH))

    @classmethod
    def joined(cls, parts: Sequence[Forms]) -> Forms:
        """One after another."""
        return cls(
            " ".join(part.raw for part in parts),
            " ".join(part.punctuated for part in parts),
            " ".join(part.spanish for part in parts),
        )

    @property
    def spanish_raw(self) -> str:
        return " ".join(re.sub(r"[¿?.,]", " ", self.spanish.lower()).split())

    @property
    def spelled(self) -> list[str]:
        """Its words that have another spelling."""
        return [word for word in dict.fromkeys(self.raw.split()) if word in SPELLINGS]

    def fixed(self) -> Iterator[Task]:
        """The tasks with one answer whoever asks."""
        yield Task(RAW, self.raw)
        yield Task(PUNCTUATED, self.punctuated)
        yield Task(TRANSLATED, self.spanish_raw)
        yield Task(TRANSLATED_PUNCTUATED, self.spanish)

    def with_keywords(self, rng: random.Random) -> Task:
        """Random keywords, most of them said where there are such words."""
        said = self.spelled
        rng.shuffle(said)
        chosen = [word for word in said if rng.random() < 0.8]
        others = [word for word in SPELLINGS if word not in said]
        wanted = rng.randint(1, MOST_KEYWORDS)
        chosen = [*chosen, *rng.sample(others, max(0, wanted - len(chosen)))][:MOST_KEYWORDS]
        rng.shuffle(chosen)
        spelled = {word: _spelling(word, rng) for word in chosen}
        text = " ".join(spelled.get(word, word) for word in self.raw.split())
        return Task(WITH_KEYWORDS.format(", ".join(spelled.values())), text)


def _spelling(word: str, rng: random.Random) -> str:
    """One of the ways to write a word, mostly the other one, as a person would type it."""
    other = SPELLINGS[word]
    if other.islower():
        return other if rng.random() < 0.7 else word
    chosen = other if rng.random() < 0.7 else word.title()
    return chosen if rng.random() < 0.7 else chosen.lower()


def written(raw: str, book: Book) -> str:
    """A text as a book tells it, with capitals where sentences begin and marks where they end."""
    told = []
    for tree in sentences(raw):
        words = book.tell(tree).words
        (kind,) = tree.children
        asks = kind.name == "question" or kind.alternative.startswith("how much")
        told.append(words if words.endswith("?") else words + (" ?" if asks else " ."))
    text = re.sub(r" ([?.,])", r"\1", " ".join(told)).replace("¿ ", "¿")
    return re.sub(r"(^|[?.] )(¿?\w)", lambda m: m[1] + m[2].upper(), text)
