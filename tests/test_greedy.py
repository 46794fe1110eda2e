"""Greedy decoding with and without drafts: on a made-up model, where every choice is known."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from granite_gguf.speech.drafts import MOST_GUESSED, Draft, find_place
from granite_gguf.speech.greedy import ALIKE, CLEAR, Choice, End, Said, speak
from granite_gguf.speech.loops import Loop, find_loop, token_budget

EOS = 0


class MadeUp:
    """Says what a table tells of the last two tokens; with some tokens it is unsure.

    Where it is unsure, rows of a pass with several answer otherwise than a single one; if it never
    is, a guess may be made at the prompt.
    """

    def __init__(self, table: Sequence[int], unsure: frozenset[int] = frozenset()) -> None:
        self.table, self.unsure = table, unsure
        self.clear = CLEAR if unsure else ALIKE
        self.cache: list[int] = [1, 2]  # the prompt
        self.passes = self.rows = 0

    def choice(self, *, alone: bool) -> Choice:
        a, b = self.cache[-2:]
        token = self.table[(7 * a + b) % len(self.table)]
        if b in self.unsure:
            return Choice(token if alone else token + 1, 0.5, 0.001)
        return Choice(token, 0.5, 1.0)

    def run(self, budget: int, draft: Draft | None) -> Said:
        text = speak(EOS, budget, draft, self.clear)
        step = next(text)
        choices = [self.choice(alone=not step.tokens)]
        assert step.said == 0 and len(step.tokens) <= MOST_GUESSED
        try:
            while True:
                alone = len(step.tokens) == 1 and bool(self.passes)
                for token in step.tokens:
                    self.cache.append(token)
                    choices.append(self.choice(alone=alone))
                step = text.send(choices)
                self.passes += 1
                del self.cache[2 + step.said :]
                assert 1 <= len(step.tokens) <= MOST_GUESSED + 1
                choices = []
        except StopIteration as over:
            said: Said = over.value
            assert said.steps == self.passes
            return said


tokens = st.lists(st.integers(0, 9), max_size=80)


@settings(max_examples=400, deadline=None)
@given(
    table=st.lists(st.integers(0, 9), min_size=5, max_size=60),
    unsure=st.frozensets(st.integers(0, 9), max_size=3),
    budget=st.integers(0, 90),
    draft=tokens,
    cut=st.tuples(st.integers(0, 60), st.integers(0, 10), tokens.map(lambda t: t[:5])),
    good=st.booleans(),
)
def test_a_draft_changes_nothing_that_is_said(
    table: list[int],
    unsure: frozenset[int],
    budget: int,
    draft: list[int],
    cut: tuple[int, int, list[int]],
    good: bool,
) -> None:
    """Be it absurd, or what is said with a piece of it replaced."""
    plain = MadeUp(table, unsure).run(budget, None)
    if good:
        at, gone, instead = cut
        draft = [*plain.tokens[:at], *instead, *plain.tokens[at + gone :]]
    helped = MadeUp(table, unsure).run(budget, Draft(draft))
    assert helped.tokens == plain.tokens
    assert (helped.end, helped.loop) == (plain.end, plain.loop)
    assert helped.probabilities == plain.probabilities
    assert 0 <= helped.accepted <= helped.guessed


class Counting(MadeUp):
    """Says a text word for word, then ends."""

    def __init__(self, text: Sequence[int]) -> None:
        super().__init__([])
        self.text = text

    def choice(self, *, alone: bool) -> Choice:
        at = len(self.cache) - 2
        return Choice(self.text[at] if at < len(self.text) else EOS, 0.9, 1.0)


def test_a_draft_that_is_right_takes_few_passes() -> None:
    text = list(range(1, 101))
    said = Counting(text).run(200, Draft(text))
    assert said.tokens == tuple(text) and said.end is End.FINISHED
    assert said.accepted == said.guessed == 97  # besides, each pass tells one more
    assert said.steps == 3  # besides the prompt's


@pytest.mark.parametrize(
    "draft, most",
    [
        ([*range(1, 50), 7, *range(51, 101)], 10),  # a word replaced
        ([*range(1, 50), *range(53, 101)], 10),  # some left out
        ([*range(1, 50), 7, 7, 7, *range(50, 101)], 10),  # some added
    ],
)
def test_a_draft_is_found_again_after_a_disagreement(draft: list[int], most: int) -> None:
    text = list(range(1, 101))
    said = Counting(text).run(200, Draft(draft))
    assert said.tokens == tuple(text)
    assert said.steps <= most and said.accepted >= 85


def test_an_absurd_draft_is_soon_left_alone() -> None:
    text = list(range(1, 101))
    said = Counting(text).run(200, Draft([500] * 200))
    assert said.tokens == tuple(text) and said.accepted == 0
    assert said.steps == 100 and said.guessed <= MOST_GUESSED + 3 + 1 + 1


def test_a_place_beyond_reach_is_not_looked_for() -> None:
    assert find_place([9] * 40 + [1, 2, 3], [1, 2, 3], 3) == (0, 3)
    assert find_place([], [1], 1) == (0, 0)


@pytest.mark.parametrize("period", [1, 3, 40])
def test_a_loop_is_cut_to_its_first_round(period: int) -> None:
    text = [90, 91, *range(1, period + 1)] + list(range(1, period + 1)) * 60
    said = Counting(text).run(2000, None)
    assert said.end is End.LOOP
    assert said.loop == Loop(2, period)
    assert said.tokens == (90, 91, *range(1, period + 1))
    assert len(said.probabilities) == len(said.tokens)
    assert said.steps < max(32, 4 * period) + 3


def test_what_only_seems_to_be_a_loop_is_said() -> None:
    chorus = [*range(1, 31)]
    for text in ([5] * 31, chorus * 3, [1, 2, 3] * 10):
        assert find_loop(text) is None
        said = Counting([*text, 88]).run(2000, None)
        assert said.tokens == (*text, 88) and said.end is End.FINISHED


def test_budgets() -> None:
    text = list(range(1, 101))
    for budget in (0, 1, 57, 99):
        for draft in (None, Draft(text)):
            said = Counting(text).run(budget, draft)
            assert said.tokens == tuple(text[:budget]) and said.end is End.BUDGET
    said = Counting(text).run(100, Draft(text))
    assert said.end is End.FINISHED
    assert [token_budget(s) for s in (0.1, 30.0, 30.1, 45.0, 600.0)] == [200, 200, 201, 300, 4000]


def test_an_end_in_the_draft_is_no_guess() -> None:
    text = list(range(1, 21))
    said = Counting(text).run(200, Draft([*text[:10], EOS, *text[10:]]))
    assert said.tokens == tuple(text)
