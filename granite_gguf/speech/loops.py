"""How far a text may go: the tokens that a recording is worth, and repetition without end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

TOKENS_OF_A_SHORT_RECORDING = 200
_SHORT_SECONDS = 30.0
_TAGGED = 5  # a word's tag is some five tokens; the card's own limits have this ratio

_LONGEST_PERIOD = 40  # tokens
_FEWEST_ROUNDS = 4
_FEWEST_TOKENS = 32  # a single word may well be said a few times


@dataclass(frozen=True)
class Loop:
    """The same tokens over and over.

    Attributes:
        start: the first one's number.
        period: how many are repeated.
    """

    start: int
    period: int


def token_budget(seconds: float, *, tagged: bool = False) -> int:
    """The most tokens that a recording of some seconds is given.

    Args:
        seconds: how long it is.
        tagged: whether a tag follows each word.

    >>> token_budget(11.0), token_budget(60.0), token_budget(60.0, tagged=True)
    (200, 400, 2000)
    """
    share = max(1.0, seconds / _SHORT_SECONDS) * (_TAGGED if tagged else 1)
    return math.ceil(TOKENS_OF_A_SHORT_RECORDING * share)


def find_loop(said: Sequence[int]) -> Loop | None:
    """The loop that a text ends in, if it does.

    Some tokens, at most 40, have then been said at least four times, and at least 32 of them.

    >>> find_loop([5, 6] + [7, 8] * 16)
    Loop(start=2, period=2)
    >>> find_loop([7] * 31)
    """
    for period in range(1, _LONGEST_PERIOD + 1):
        least = max(_FEWEST_TOKENS, _FEWEST_ROUNDS * period)
        if len(said) < least:
            return None
        start = len(said) - period
        while start and said[start - 1] == said[start - 1 + period]:
            start -= 1
        if len(said) - start >= least:
            return Loop(start, period)
    return None
