"""Greedy decoding, with a draft or without: the algorithm, without a model in it.

A text is a coroutine: it asks to go on with some tokens and is told, after each of them, what the
model would say next. Several texts therefore take their steps together.

    tokens = text.send(choices)   the last token said, and a guess of what follows
    model: rows → choices         one after each token
    agreed guesses are said at once; the first that is not is forgotten

The first step is that of the prompt, in whose pass a guess costs least.

The tokens said are the same with every draft. Where a row gets other numbers in company than alone,
a guess counts only where the model's own choice is clear of rounding: where the second best comes
as close as another order of additions might bring it, the choice is asked for again in a step of
its own, as without a draft.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from enum import Enum

from granite_gguf.speech.drafts import Draft
from granite_gguf.speech.loops import Loop, find_loop

ALIKE = 0.0  # where rows are the same alone and in company
CLEAR = 0.02  # where float kernels add in another order, they differ by less
CLEAR_OF_INTEGERS = 0.2  # and where kernels round activations to 8 bits


@dataclass(frozen=True)
class Choice:
    """What a model says next.

    Attributes:
        token: the best one.
        probability: its own, in (0, 1].
        lead: by how much its logit is above the second best's, in standard deviations of all.
    """

    token: int
    probability: float
    lead: float


@dataclass(frozen=True)
class Step:
    """A wish to go on.

    Attributes:
        said: tokens that remain of those given before; what came behind them is forgotten.
        tokens: which follow them: a guess at first, when a choice is wanted after the prompt as
            well; later at least one.
    """

    said: int
    tokens: tuple[int, ...]


class End(Enum):
    """Why a text is over."""

    FINISHED = "finished"  # the model ended it
    BUDGET = "budget"  # it was given no more tokens
    LOOP = "loop"  # it repeated itself
    UNWANTED = "unwanted"  # nobody waited for it any more


@dataclass(frozen=True)
class Said:
    """A text.

    Attributes:
        tokens: without the one that ends it, and of a loop the first round alone.
        probabilities: of each.
        end: why it is over.
        loop: where it repeated itself.
        guessed: tokens of a draft that were looked at.
        accepted: those of them that were said.
        steps: passes of the model it took, the prompt's not among them.
        unseen: tokens of a draft that were taken without looking.
    """

    tokens: tuple[int, ...]
    probabilities: tuple[float, ...]
    end: End
    loop: Loop | None = None
    guessed: int = 0
    accepted: int = 0
    steps: int = 0
    unseen: int = 0


Text = Generator[Step, Sequence[Choice], Said]


def speak(eos: int, budget: int, draft: Draft | None = None, clear: float = CLEAR) -> Text:
    """A text after a prompt.

    Args:
        eos: the token that ends a text.
        budget: the most tokens.
        draft: guesses.
        clear: the lead of a choice that company cannot have changed.
    """
    said: list[int] = []
    sure: list[float] = []
    draft = draft or Draft(())
    steps = -1  # the prompt's is not counted
    end: End | None = None
    while end is None:
        last = said[-1:]
        # A prompt is not read twice: what is said first has to stand alone, or is clear for sure.
        guess = draft.after(said)[: budget - len(said)] if last or clear <= ALIKE else []
        # No text goes on behind its end.
        guess = guess[: guess.index(eos)] if eos in guess else guess
        choices = yield Step(len(said) - len(last), (*last, *guess))
        steps += 1
        accepted = 0
        for wanted, found in zip(guess, choices, strict=False):
            if found.token != wanted or found.lead < clear:
                break
            end = _say(found, said, sure, eos, budget)
            accepted += 1
            if end is not None:
                break
        if guess:
            draft.learn(len(guess), accepted)
        if end is not None:
            break
        choice = choices[accepted]
        if choice.lead < clear and guess:
            (choice,) = yield Step(len(said) - 1, (said[-1],))
            steps += 1
        end = _say(choice, said, sure, eos, budget)
    loop = find_loop(said) if end is End.LOOP else None
    length = len(said) if loop is None else loop.start + loop.period
    return Said(
        tuple(said[:length]),
        tuple(sure[:length]),
        end,
        loop,
        draft.guessed,
        draft.accepted,
        steps,
    )


def _say(choice: Choice, said: list[int], sure: list[float], eos: int, budget: int) -> End | None:
    """Add a choice to what was said, unless it ends the text; whether that is over."""
    if choice.token == eos:
        return End.FINISHED
    if len(said) == budget:
        return End.BUDGET
    said.append(choice.token)
    sure.append(choice.probability)
    return End.LOOP if find_loop(said) is not None else None
