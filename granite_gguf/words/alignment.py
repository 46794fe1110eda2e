"""CTC forced alignment: where in the audio the words of a text are heard.

    log-probabilities (windows, tokens), words as token columns → a span of windows for each word

The most probable path through ``_ t1 _ t2 _ ... tn _`` (``_`` the blank) is found by Viterbi's
algorithm. A word may be left out at a price, because the text was edited: what the editor put in
is nowhere in the audio's posteriors, and must not push its neighbours aside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from granite_gguf.arrays import Floats, IntArray

SKIP = float(np.log(1e-3))
"""What leaving out one token costs: a token less probable than this was not heard."""


@dataclass(frozen=True)
class Span:
    """Windows ``first`` to ``last``, inclusive, in which a word's tokens are emitted."""

    first: int
    last: int


def align(blank: Floats, tokens: Floats, words: Sequence[Sequence[int]]) -> list[Span | None]:
    """Find the words of a text.

    Args:
        blank: ``(windows,)``, log-probabilities of the blank.
        tokens: ``(windows, columns)``, log-probabilities of the tokens of the text.
        words: the columns of each word's tokens, in order, at least one a word.

    Returns:
        For each word its windows, or None where it is not heard.

    >>> sure, never = np.log(0.98), np.log(1e-9)
    >>> heard = np.full((5, 3), never)
    >>> heard[1, 0] = heard[3, 1] = sure
    >>> silent = np.array([sure, never, sure, never, sure])
    >>> align(silent, heard, [[0], [2], [1]])
    [Span(first=1, last=1), None, Span(first=3, last=3)]
    """
    if not words or not len(blank):
        return [None] * len(words)
    path = _best_path(blank, tokens, words)
    spans: list[Span | None] = []
    state = 1
    for word in words:
        inside = np.flatnonzero((path >= state) & (path < state + 2 * len(word)) & (path % 2 == 1))
        spans.append(Span(int(inside[0]), int(inside[-1])) if len(inside) else None)
        state += 2 * len(word)
    return spans


def _best_path(blank: Floats, tokens: Floats, words: Sequence[Sequence[int]]) -> IntArray:
    """The state of each window; state 2i + 1 emits the i-th token, even states the blank."""
    columns = np.array([column for word in words for column in word])
    # The blanks before the first word and after each: between them words can be left out.
    joints = 2 * np.concatenate([[0], np.cumsum([len(word) for word in words])])
    count = 2 * len(columns) + 1
    # A token that repeats the one before it needs a blank between.
    leap_allowed = np.zeros(count, bool)
    leap_allowed[3::2] = columns[1:] != columns[:-1]
    emitted = np.empty(count)
    moves = np.zeros((len(blank), count), np.int8)
    sources = np.full((len(blank), len(joints)), -1, np.int32)
    score = np.full(count, -np.inf)
    score[0] = 0.0
    _leave_out(score, joints)
    for window in range(len(blank)):
        emitted[0::2] = blank[window]
        emitted[1::2] = tokens[window, columns]
        choices = np.full((3, count), -np.inf)
        choices[0] = score
        choices[1, 1:] = score[:-1]
        choices[2, 2:] = np.where(leap_allowed[2:], score[:-2], -np.inf)
        moves[window] = np.argmax(choices, axis=0)
        score = np.max(choices, axis=0) + emitted
        sources[window] = _leave_out(score, joints)
    state = count - 1 if score[-1] >= score[-2] else count - 2
    path = np.empty(len(blank), np.int64)
    joint_at = {int(joint): index for index, joint in enumerate(joints)}
    for window in range(len(blank) - 1, -1, -1):
        if state in joint_at and sources[window, joint_at[state]] >= 0:
            state = int(sources[window, joint_at[state]])
        path[window] = state
        state -= int(moves[window, state])
    return path


def _leave_out(score: Floats, joints: npt.NDArray[np.integer]) -> IntArray:
    """Let every joint be reached, in the same window, from an earlier one by leaving words out.

    Changes ``score`` and returns the state each joint is reached from, or -1 where by itself.
    """
    prices = SKIP * joints / 2  # of leaving out everything before a joint
    before = np.concatenate([[-np.inf], score[joints[1:] - 1]])  # the last token before a joint
    value = np.maximum(score[joints], before) - prices
    best = np.maximum.accumulate(value)
    origin = np.maximum.accumulate(np.where(value == best, np.arange(len(joints)), 0))
    reached = best[:-1] + prices[1:]
    better = reached > score[joints[1:]]
    source = joints - (before > score[joints])
    score[joints[1:][better]] = reached[better]
    result = np.full(len(joints), -1, np.int64)
    result[1:][better] = source[origin[:-1][better]]
    return result
