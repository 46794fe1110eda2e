"""Long passes: several utterances one after another, with pauses, often by one voice."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch
from tokenizers import Tokenizer

from training.dataset import QUIETEST, Example
from training.tokens import encode_characters

SECOND = 50  # frames
SHORTEST, LONGEST = 4 * SECOND, 22 * SECOND
PAUSES = (0.1, 1.0)  # seconds, besides the utterances' own margins
ALONE = 0.3  # share of the speech that stays in utterances by themselves
ONE_VOICE = 0.6  # share of the passes; in the others one in two utterances changes it

# Seconds of the passes that the training is watched with and that models are compared by.
LENGTHS = ((2, 4), (4, 8), (8, 12), (12, 16), (16, 20))


class Utterance(Protocol):
    """What is said by one voice."""

    @property
    def text(self) -> str: ...
    @property
    def voice(self) -> str: ...
    @property
    def frames(self) -> int: ...


Said = TypeVar("Said", bound=Utterance)


@dataclass(frozen=True)
class Pass(Generic[Said]):
    """Utterances, at least one, and the frames between them."""

    parts: Sequence[Said]
    pauses: Sequence[int]

    @property
    def text(self) -> str:
        return " ".join(part.text for part in self.parts)

    @property
    def frames(self) -> int:
        return sum(part.frames for part in self.parts) + sum(self.pauses)


class Passes(Generic[Said]):
    """Draws passes of utterances, each of which it takes at most once."""

    def __init__(self, utterances: Sequence[Said], rng: random.Random) -> None:
        self._rng = rng
        self._of_voice: dict[str, list[Said]] = defaultdict(list)
        for utterance in rng.sample(utterances, len(utterances)):
            self._of_voice[utterance.voice].append(utterance)

    def training(self, frames: float = math.inf) -> Iterator[Pass[Said]]:
        """Utterances by themselves and passes of all lengths, about so many frames in all."""
        drawn = alone = 0
        while drawn < frames and self._of_voice:
            if alone <= ALONE * drawn:
                made = Pass([self._next("")], [])
                alone += made.frames
            else:
                made = self._drawn(self._rng.uniform(SHORTEST, LONGEST))
            drawn += made.frames
            yield made

    def of_length(self, least: float, most: float, count: int) -> Iterator[Pass[Said]]:
        """`count` passes of `least` to `most` seconds, or fewer where the utterances run out."""
        while count and self._of_voice:
            made = self._drawn(self._rng.uniform(least, most) * SECOND)
            if least * SECOND <= made.frames <= most * SECOND:
                count -= 1
                yield made

    def _drawn(self, frames: float) -> Pass[Said]:
        """A pass of at most so many frames where there are several utterances in it."""
        stays = self._rng.random() < ONE_VOICE
        parts = [self._next("")]
        pauses: list[int] = []
        while self._of_voice:
            same = stays or self._rng.random() < 0.5
            part = self._next(parts[-1].voice if same else "")
            pauses.append(round(self._rng.uniform(*PAUSES) * SECOND))
            if Pass([*parts, part], pauses).frames > frames:
                self._of_voice[part.voice].append(part)
                pauses.pop()
                break
            parts.append(part)
        return Pass(parts, pauses)

    def _next(self, voice: str) -> Said:
        """An utterance of that voice where there is one left, otherwise of any."""
        if voice not in self._of_voice:
            voice = self._rng.choice(list(self._of_voice))
        left = self._of_voice[voice]
        utterance = left.pop()
        if not left:
            del self._of_voice[voice]
        return utterance


def passes_of(examples: Sequence[Example], rng: random.Random) -> list[Pass[Example]]:
    """All utterances of the grammar's words in passes, and all others by themselves."""
    known = [example for example in examples if example.tokens]
    alone = [Pass([example], []) for example in examples if not example.tokens]
    return [*Passes(known, rng).training(), *alone]


def as_example(
    drawn: Pass[Example], tokenizer: Tokenizer, characters: int, lead: str = ""
) -> Example:
    """As if the utterances had been recorded together, one floor below them all.

    Its tokens are those behind `lead`.
    """
    first, *others = drawn.parts
    if not others:
        return first
    sounds = [torch.from_numpy(part.features) for part in drawn.parts]  # several times faster
    floor = max(float(sound.max()) for sound in sounds) - QUIETEST
    rows = [sounds[0]]
    for pause, sound in zip(drawn.pauses, sounds[1:], strict=True):
        rows += [sound.new_full((pause, sound.shape[1]), floor), sound]
    return Example(
        torch.cat(rows).clamp_(min=floor).numpy(),
        drawn.text,
        first.voice,
        encode_characters(drawn.text, characters),
        tokenizer.encode(lead + drawn.text, add_special_tokens=False).ids,
        tuple(part.text for part in drawn.parts),
    )
