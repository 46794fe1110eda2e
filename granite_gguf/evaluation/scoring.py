"""Word and character error rates after the Whisper normalisers, and what is counted beside them."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from granite_gguf.errors import MissingExtraError

ENGLISH = frozenset({"en", "eng", "english"})


@dataclass(frozen=True)
class Edits:
    """Edits that turn expected units into those found, and how many were expected."""

    errors: int
    units: int

    @property
    def rate(self) -> float:
        """Errors by unit. With nothing expected: 0 without errors, otherwise infinite."""
        if self.units:
            return self.errors / self.units
        return float("inf") if self.errors else 0.0

    def __add__(self, other: Edits) -> Edits:
        return Edits(self.errors + other.errors, self.units + other.units)


@dataclass(frozen=True)
class Score:
    """One recording, or the sum of several."""

    words: Edits
    characters: Edits
    exact: int  # texts equal byte for byte, before any normalisation

    def __add__(self, other: Score) -> Score:
        return Score(
            self.words + other.words, self.characters + other.characters, self.exact + other.exact
        )


def total(scores: Sequence[Score]) -> Score:
    """All recordings as one text: long ones count more than short ones."""
    result = Score(Edits(0, 0), Edits(0, 0), 0)
    for score in scores:
        result = result + score
    return result


class Scorer:
    """Scores texts; English ones after Whisper's English normaliser, others after its basic one.

    Raises:
        MissingExtraError: jiwer or whisper-normalizer is not installed.
    """

    def __init__(self) -> None:
        self._jiwer = _load("jiwer")
        self._english = _load("whisper_normalizer.english").EnglishTextNormalizer()
        self._basic = _load("whisper_normalizer.basic").BasicTextNormalizer()

    def normalise(self, text: str, language: str) -> str:
        """A text as it is compared."""
        normaliser = self._english if language.lower() in ENGLISH else self._basic
        return " ".join(str(normaliser(text)).split())

    def score(self, expected: str, found: str, language: str) -> Score:
        """Score one text."""
        a, b = self.normalise(expected, language), self.normalise(found, language)
        return Score(
            words=self._edits(a, b, self._jiwer.process_words, len(b.split())),
            characters=self._edits(a, b, self._jiwer.process_characters, len(b)),
            exact=int(expected == found),
        )

    @staticmethod
    def _edits(expected: str, found: str, process: Any, units: int) -> Edits:
        if not expected:
            return Edits(errors=units, units=0)
        out = process(expected, found)
        wrong = out.substitutions + out.deletions
        return Edits(errors=wrong + out.insertions, units=out.hits + wrong)


def _load(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"{error.name} is not installed, and eval needs it: pip install 'granite-gguf[eval]'"
        ) from error
