"""Long passes: several utterances one after another, with pauses, often by one voice."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator

import numpy as np
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


class Passes:
    """Draws utterances, each at most once, and joins them."""

    def __init__(
        self, examples: list[Example], tokenizer: Tokenizer, characters: int, rng: random.Random
    ) -> None:
        self._tokenizer, self._characters, self._rng = tokenizer, characters, rng
        self._of_voice: dict[str, list[Example]] = defaultdict(list)
        for example in rng.sample(examples, len(examples)):
            self._of_voice[example.voice].append(example)

    def training(self, frames: int) -> Iterator[Example]:
        """Utterances by themselves and passes of all lengths, about so many frames in all."""
        drawn = alone = 0
        while drawn < frames and self._of_voice:
            if alone <= ALONE * drawn:
                made = self._next("")
                alone += made.frames
            else:
                made = self.drawn(self._rng.uniform(SHORTEST, LONGEST))
            drawn += made.frames
            yield made

    def of_length(self, least: float, most: float, count: int) -> Iterator[Example]:
        """`count` passes of `least` to `most` seconds, or fewer where the utterances run out."""
        while count and self._of_voice:
            made = self.drawn(self._rng.uniform(least, most) * SECOND)
            if least * SECOND <= made.frames <= most * SECOND:
                count -= 1
                yield made

    def drawn(self, frames: float) -> Example:
        """A pass of at most so many frames where there are several utterances in it."""
        stays = self._rng.random() < ONE_VOICE
        parts = [self._next("")]
        pauses: list[int] = []
        while self._of_voice:
            same = stays or self._rng.random() < 0.5
            part = self._next(parts[-1].voice if same else "")
            pauses.append(round(self._rng.uniform(*PAUSES) * SECOND))
            if sum(p.frames for p in (*parts, part)) + sum(pauses) > frames:
                self._of_voice[part.voice].append(part)
                break
            parts.append(part)
        return self._joined(parts, pauses)

    def _next(self, voice: str) -> Example:
        """An utterance of that voice where there is one left, otherwise of any."""
        if voice not in self._of_voice:
            voice = self._rng.choice(list(self._of_voice))
        left = self._of_voice[voice]
        example = left.pop()
        if not left:
            del self._of_voice[voice]
        return example

    def _joined(self, parts: list[Example], pauses: list[int]) -> Example:
        """As if they had been recorded together, one floor below them all."""
        floor = max(part.features.max() for part in parts) - np.float16(QUIETEST)
        rows = [parts[0].features]
        for pause, part in zip(pauses, parts[1:], strict=False):
            rows += [np.full((pause, part.features.shape[1]), floor, np.float16), part.features]
        text = " ".join(part.text for part in parts)
        return Example(
            np.maximum(np.concatenate(rows), floor),
            text,
            parts[0].voice,
            encode_characters(text, self._characters),
            self._tokenizer.encode(text, add_special_tokens=False).ids,
        )
