"""Word and character errors of a text, counted by one of three rules."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache
from importlib.metadata import version
from typing import Any

from granite_gguf._version import __version__
from granite_gguf.errors import InputError, MissingExtraError
from granite_gguf.evaluation.leaderboard import AS_OF, join_compounds, to_be_ignored

ENGLISH = frozenset({"en", "eng", "english"})
_GAP = "\0"  # stands in an alignment where one side has no word


class Scoring(str, Enum):
    """Which rule counts errors.

    ``LEADERBOARD`` is that of the Open ASR Leaderboard: references to be ignored are left out, and
    a compound written apart is no error. ``WHISPER`` compares after Whisper's normalisers alone,
    ``PLAIN`` words as they stand between spaces.
    """

    LEADERBOARD = "leaderboard"
    WHISPER = "whisper"
    PLAIN = "plain"


@dataclass(frozen=True)
class Edits:
    """Edits that turn expected units into those found, and how many were expected."""

    insertions: int
    deletions: int
    substitutions: int
    units: int

    @property
    def errors(self) -> int:
        """All edits."""
        return self.insertions + self.deletions + self.substitutions

    @property
    def rate(self) -> float:
        """Errors by unit. With nothing expected: 0 without errors, otherwise infinite."""
        if self.units:
            return self.errors / self.units
        return float("inf") if self.errors else 0.0

    def __add__(self, other: Edits) -> Edits:
        return Edits(
            self.insertions + other.insertions,
            self.deletions + other.deletions,
            self.substitutions + other.substitutions,
            self.units + other.units,
        )


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


def total(scores: Iterable[Score]) -> Score:
    """All recordings as one text: long ones count more than short ones."""
    nothing = Edits(0, 0, 0, 0)
    return sum(scores, Score(nothing, nothing, 0))


class Scorer:
    """Scores texts by a rule, English ones after a normaliser of their own.

    Args:
        scoring: the rule, by its value.

    Raises:
        InputError: there is no such rule.
        MissingExtraError: kaldialign or whisper-normalizer is not installed.
    """

    def __init__(self, scoring: str = Scoring.WHISPER) -> None:
        try:
            self.scoring = Scoring(scoring)
        except ValueError:
            choices = ", ".join(repr(rule.value) for rule in Scoring)
            raise InputError(f"scoring is {scoring!r}, expected one of {choices}") from None
        self._kaldialign = _load("kaldialign")
        self._normalised = cache(self._normalise)  # a text is looked at several times
        self._merges = self.scoring is Scoring.LEADERBOARD
        if self.scoring is not Scoring.PLAIN:
            self._english = _load("whisper_normalizer.english").EnglishTextNormalizer()
            self._basic = _load("whisper_normalizer.basic").BasicTextNormalizer()

    @property
    def versions(self) -> dict[str, str]:
        """What a figure depends on besides the texts: the rule, and versions of what applies it."""
        found = {"scoring": self.scoring.value}
        if self.scoring is Scoring.LEADERBOARD:
            found["as of"] = AS_OF
        found |= {
            "compounds": "merged" if self._merges else "as written",
            "granite-gguf": __version__,
            "kaldialign": version("kaldialign"),
        }
        if self.scoring is not Scoring.PLAIN:
            found["whisper-normalizer"] = version("whisper-normalizer")
        return found

    def normalise(self, text: str, language: str) -> str:
        """A text as it is compared."""
        return self._normalised(text, language.lower())

    def _normalise(self, text: str, language: str) -> str:
        if self.scoring is not Scoring.PLAIN:
            text = (self._english if language in ENGLISH else self._basic)(text)
        return " ".join(text.split())

    def ignores(self, expected: str, language: str) -> bool:
        """Whether the rule leaves a recording out because of what is expected of it."""
        return self._merges and to_be_ignored(self.normalise(expected, language))

    def score(self, expected: str, found: str, language: str) -> Score:
        """Score one text."""
        a, b = self._words(expected, found, language)
        return Score(
            words=self._edits(a, b, merge=self._merges),
            characters=self._edits(" ".join(a), " ".join(b), merge=False),
            exact=int(expected == found),
        )

    def align(
        self, expected: str, found: str, language: str
    ) -> list[tuple[str | None, str | None]]:
        """Pairs of an expected and a found word, or words of a compound; None where one is missing.

        A pair is an error unless :func:`same_words` holds for it.
        """
        sides = self._words(expected, found, language)
        pairs = self._kaldialign.align(*sides, _GAP, merge_compounds=self._merges)
        return [(None if a == _GAP else a, None if b == _GAP else b) for a, b in pairs]

    def _words(self, expected: str, found: str, language: str) -> tuple[list[str], list[str]]:
        a, b = (self.normalise(text, language).split() for text in (expected, found))
        if self._merges and language.lower() not in ENGLISH:
            return join_compounds(a, b)
        return a, b

    def _edits(self, expected: Sequence[str], found: Sequence[str], *, merge: bool) -> Edits:
        counted = self._kaldialign.edit_distance(expected, found, merge_compounds=merge)
        return Edits(counted["ins"], counted["del"], counted["sub"], counted["ref_len"])


def same_words(pair: tuple[str | None, str | None]) -> bool:
    """Whether a pair of an alignment is no error: the same word, or a compound written apart."""
    expected, found = pair
    if expected is None or found is None:
        return False
    return expected.replace(" ", "") == found.replace(" ", "")


def _load(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"{error.name} is not installed, and eval needs it: pip install 'granite-gguf[eval]'"
        ) from error
