"""Names and terms put into the first hypothesis where the encoder hears them.

    posteriors of the character head → terms → the words that they replace → tokens

The BPE head, of which the hypothesis is made, knows the pieces of words that it was trained on; the
character head writes what it hears, and a name that is new to both is more like itself in letters.
What is put in so is not edited.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp

import numpy as np
import numpy.typing as npt

from granite_gguf.arrays import FloatArray, IntArray
from granite_gguf.nar.spec import Hypothesis as Head
from granite_gguf.stages.decoding import run_probabilities
from granite_gguf.tokenizer import SpeechTokenizer
from granite_gguf.words.spotting import Spot
from granite_gguf.words.terms import Allowance, Hotwords

_SPACE = " "
REPLACING = Allowance(of_a_letter=4.0, short=6.0, few=10, less=0.45)
"""What a term may cost that takes the place of other words."""
_SURE = 0.95  # words no token of which is less probable are probably right
_OF_SURE = 0.5  # of the cost, where a term stands for such words


@dataclass(frozen=True)
class Hypothesis:
    """A first hypothesis with terms in it.

    Attributes:
        tokens: ``(n,)``.
        sure: ``(n,)``, of the tokens of a term how well its letters were heard, in (0, 1]; 0 of all
            others, which may be edited.
    """

    tokens: IntArray
    sure: FloatArray


def with_terms(
    h: Head,
    tokenizer: SpeechTokenizer,
    ids: IntArray,
    wanted: Hotwords,
    spots: Sequence[Spot],
    best: FloatArray,
) -> Hypothesis | None:
    """The hypothesis in which terms stand for the words that lie in their frames; None without any.

    Args:
        h: the head's numbers.
        tokenizer: the model's.
        ids: ``(windows,)``, the head's best ids.
        wanted: what was listened for.
        spots: what was heard.
        best: ``(windows,)``, the probabilities of the ids.
    """
    sure_of = run_probabilities(ids, best, h.blank_id)
    starts = np.flatnonzero(np.concatenate([[True], ids[1:] != ids[:-1]]))
    starts = starts[ids[starts] != h.blank_id]
    tokens, places = ids[starts] - h.id_shift, (starts + 0.5) * h.pooling_window
    leads = [n == 0 or tokenizer.decode([t])[:1] == _SPACE for n, t in enumerate(tokens)]
    begins = [int(n) for n in np.flatnonzero(leads)]
    written: list[tuple[IntArray, float]] = []
    at = found = 0

    def write(text: str, sure: float) -> None:
        if text:
            written.append((tokenizer.encode(f" {text}" if written else text), sure))

    def copy(part: IntArray) -> None:
        if h.retokenize:
            write(tokenizer.decode(part).strip().lower(), 0.0)
        elif len(part):
            written.append((part, 0.0))

    for spot in spots:
        first, last = _words_within(begins, places, spot, at)
        probably_right = last > first and sure_of[first:last].min() >= _SURE
        if probably_right and spot.cost > _OF_SURE * wanted.most[spot.term]:
            continue
        found += 1
        copy(tokens[at:first])
        write(wanted.texts[spot.term], exp(-spot.cost / wanted.letters[spot.term]))
        at = last
    if not found:
        return None
    copy(tokens[at:])
    sure = [np.full(len(part), heard, np.float32) for part, heard in written]
    return Hypothesis(np.concatenate([part for part, _ in written]), np.concatenate(sure))


def _words_within(
    begins: Sequence[int], places: npt.NDArray[np.floating], spot: Spot, at: int
) -> tuple[int, int]:
    """The first token of the words of which most lies in a spot's frames, and the one behind.

    Args:
        begins: the first token of each word.
        places: ``(tokens,)``, the frame of each token.
        spot: the frames.
        at: the first token that may be taken.
    """
    inside = (places >= spot.first) & (places < spot.end)
    taken = [
        (first, last)
        for first, last in zip(begins, [*begins[1:], len(places)], strict=True)
        if first >= at and 2 * inside[first:last].sum() >= last - first
    ]
    if taken:
        return taken[0][0], taken[-1][1]
    behind = max(at, int(np.searchsorted(places, spot.first)))
    return behind, behind
