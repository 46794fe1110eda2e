"""A draft of what will be said, followed as long as it agrees with what is said: no model in here.

    said    a b X d e          after X the draft is found again by the words around it
    draft   a b c d e f

A draft decides nothing. It tells which tokens are worth looking at together, and a wrong one costs
time alone. Only where the last bit of exactness is not asked for, one that is sure from end to end
is taken without looking, as the model's card does.
"""

from __future__ import annotations

from collections.abc import Sequence

from granite_gguf.arrays import FloatArray

MOST_GUESSED = 32  # rows of a pass: more are no cheaper by the row
STEP_ROWS = (1, 2, 4, 8, 16, MOST_GUESSED + 1)
"""Rows that steps are filled up to: the last token said, and a guess."""
_BACK = 3  # sizes of steps to go back by where nothing of a guess was right
_REACH = 24  # tokens to either side of where the draft is expected to go on
_TELLING = 4  # tokens in a row that are surely no coincidence
_PATIENCE = 4  # guesses in vain, after which only a telling place is worth another

_SURE = 0.7  # nats in any row, by the card of granite-speech-4.1-2b


def is_sure(entropies: FloatArray) -> bool:
    """Whether a draft may be taken without looking.

    Args:
        entropies: ``(rows,)``, of the head's rows, in nats; blank ones count, too.

    Source: the first step of self-speculative decoding (Saon et al. 2026, arXiv 2603.11243).
    """
    return bool(len(entropies)) and float(entropies.max()) <= _SURE


class Draft:
    """Proposes what comes next.

    Args:
        tokens: the draft; it may be empty, or have nothing to do with what is said.
    """

    def __init__(self, tokens: Sequence[int]) -> None:
        self._tokens = list(tokens)
        self._next = 0
        self._size = len(STEP_ROWS) - 1  # of the next guess, by the step that it fills
        self._in_vain = 0
        self._known = 0  # tokens said when the place in the draft was last looked for
        self.guessed = self.accepted = 0

    def after(self, said: Sequence[int]) -> list[int]:
        """What probably follows all that was said, or nothing.

        What :meth:`learn` was told is agreed on; the tokens said since then are not the draft's.
        """
        spoken = len(said) - self._known
        if spoken:
            matched, self._next = find_place(self._tokens, said, self._next + spoken)
            self._known = len(said)
            if self._in_vain >= _PATIENCE and matched < _TELLING:
                return []
        return self._tokens[self._next : self._next + STEP_ROWS[self._size] - 1]

    def learn(self, guessed: int, accepted: int) -> None:
        """Take note of how many tokens of the last guess were said."""
        self.guessed += guessed
        self.accepted += accepted
        self._next += accepted
        self._known += accepted
        if accepted == guessed:
            self._size = min(self._size + 1, len(STEP_ROWS) - 1)
        elif STEP_ROWS[self._size - 1] > accepted:
            self._size = max(self._size - (1 if accepted else _BACK), 1)
        self._in_vain = 0 if accepted else self._in_vain + 1


def find_place(draft: Sequence[int], said: Sequence[int], expected: int) -> tuple[int, int]:
    """Where in a draft what was said goes on.

    Args:
        draft: the draft.
        said: tokens, of which the last ones are looked for.
        expected: where it goes on if each token stands for one of the draft.

    Returns:
        How many of the last tokens stand before the place, and the place. Of places within reach,
        the one with most of them; of equal ones the nearest. With none of them, the expected one.

    >>> find_place([1, 2, 3, 4, 5], [1, 9, 3], 3)
    (1, 3)
    >>> find_place([1, 2, 3, 4, 5], [1, 2, 7, 8, 3, 4], 6)
    (2, 4)
    """
    best = (0, 0)
    place = min(expected, len(draft))
    for end in range(max(1, expected - _REACH), min(len(draft), expected + _REACH) + 1):
        matched = 0
        while matched < min(end, len(said), _TELLING) and (
            draft[end - 1 - matched] == said[-1 - matched]
        ):
            matched += 1
        if matched and (matched, -abs(end - expected)) > best:
            best, place = (matched, -abs(end - expected)), end
    return best[0], place
