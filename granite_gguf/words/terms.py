"""Names and terms that are listened for in the letters that the encoder hears.

posteriors of a character head → terms, each where it costs little enough
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import log

import numpy as np
import numpy.typing as npt

from granite_gguf.arrays import FloatArray
from granite_gguf.errors import InputError
from granite_gguf.passes import Hotword
from granite_gguf.words.spotting import Spot, Trie

_SPACE = " "
_LEAST = 1.0  # for a letter, of however many terms


@dataclass(frozen=True)
class Allowance:
    """What a term may cost.

    Attributes:
        of_a_letter: for each of its letters.
        short: less for all of them together: a short term is like much else.
        few: terms, of which more are sooner like something else.
        less: for each letter, where there are e times as many.
    """

    of_a_letter: float
    short: float
    few: int = 1
    less: float = 0.0

    def of_each(self, terms: int) -> float:
        """For each letter of so many terms."""
        return max(_LEAST, self.of_a_letter - self.less * log(max(1.0, terms / self.few)))


@dataclass(frozen=True)
class Hotwords:
    """Terms to listen for.

    Attributes:
        texts: as they are to be written.
        letters: of each.
        trie: their labels.
        most: ``(n,)``, what each may cost.
    """

    texts: tuple[str, ...]
    letters: tuple[int, ...]
    trie: Trie
    most: npt.NDArray[np.floating]


def hotwords(
    known: Mapping[str, int], terms: tuple[Hotword, ...], allowance: Allowance
) -> Hotwords:
    """Terms to listen for by a head with such labels of characters.

    Raises:
        InputError: the labels are not known, or a term has none.
    """
    return _hotwords(tuple(known.items()), terms, allowance)


@lru_cache(maxsize=8)
def _hotwords(
    known: tuple[tuple[str, int], ...], terms: tuple[Hotword, ...], allowance: Allowance
) -> Hotwords:
    labels = dict(known)
    if _SPACE not in labels:
        raise InputError(
            "this file does not tell the characters of its encoder's head, without which no names "
            "are listened for; the file of a released model does"
        )
    spelt = [spelling(labels, term.text) for term in terms]
    for term, labels_of_it in zip(terms, spelt, strict=True):
        if not labels_of_it:
            raise InputError(f"hotword {term.text!r} has no character that the model writes")
    letters = [len(labels_of_it) for labels_of_it in spelt]
    each = allowance.of_each(len(terms))
    most = [
        term.weight * max(0.0, each * count - allowance.short)
        for term, count in zip(terms, letters, strict=True)
    ]
    texts = tuple(" ".join(term.text.split()) for term in terms)
    return Hotwords(texts, tuple(letters), Trie(spelt, labels[_SPACE]), np.array(most))


def spelling(labels: Mapping[str, int], text: str) -> list[int]:
    """A term in small letters, without what the head does not write, accents before letters.

    Empty where nothing but spaces is left of it.
    """
    written = []
    for character in " ".join(text.lower().split()):
        parts = character if character in labels else unicodedata.normalize("NFKD", character)
        written += [labels[part] for part in parts if part in labels]
    return [] if all(label == labels[_SPACE] for label in written) else written


def spotted(
    wanted: Hotwords, known: Mapping[str, int], logits: FloatArray, blank: int
) -> list[Spot]:
    """The terms that are heard in frames ``(T, characters)``, in order, none beside another."""
    posteriors = logits - logits.max(axis=1, keepdims=True)
    # A recording begins and ends between words.
    edge = np.full((1, logits.shape[1]), -np.inf, np.float32)
    edge[0, known[_SPACE]] = 0.0
    padded = np.concatenate([edge, posteriors, edge])
    found = wanted.trie.spot(padded, blank, wanted.most)
    return [Spot(of.term, of.first - 1, of.end - 1, of.cost) for of in found]
