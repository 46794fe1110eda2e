"""Which keywords are worth telling: those that the letters come near to that the encoder hears.

A list in a prompt is read with every pass, few models were trained with more than some terms, and a
keyword that nobody says may change how other names are written.
"""

from __future__ import annotations

from collections.abc import Mapping

from granite_gguf.arrays import FloatArray
from granite_gguf.passes import Hotword
from granite_gguf.stages import characters
from granite_gguf.words.terms import Allowance, hotwords, spelling, spotted

_MOST = 10
# More than what takes the place of other words by itself: whether one is said, the model decides.
_TELLING = Allowance(of_a_letter=8.0, short=9.0, few=1, less=0.45)


def chosen(
    terms: tuple[Hotword, ...], known: Mapping[str, int], logits: FloatArray
) -> tuple[str, ...]:
    """The keywords to be told, as they were typed, in their order.

    Args:
        terms: all of them, at least one.
        known: a label of each character.
        logits: of the character head, ``(T, characters)``.
    """
    listened = tuple(term for term in terms if spelling(known, term.text))
    told = [n for n, term in enumerate(terms) if term not in listened][:_MOST]
    if listened:
        wanted = hotwords(known, listened, _TELLING)
        spots = spotted(wanted, known, logits, characters.BLANK)
        spots.sort(key=lambda spot: spot.cost - wanted.most[spot.term])
        told += [terms.index(listened[spot.term]) for spot in spots]
    numbers = sorted(list(dict.fromkeys(told))[:_MOST])
    return tuple(terms[n].text for n in numbers)
