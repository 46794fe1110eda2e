"""Utterances as features and targets, in batches of about equal length."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from torch import Tensor

from training.corruption import rows_needed
from training.grammar import vocabulary
from training.synthesize import read_index
from training.tokens import encode_characters

QUIETEST = 2.0  # the front end's floor below the loudest value, in features

Half = npt.NDArray[np.float16]


@dataclass(frozen=True)
class Example:
    """One utterance: its features (T, 160), what is said, and by whom.

    There are no tokens where a word is not the grammar's: only the characters learn from it.
    """

    features: Half
    text: str
    voice: str
    characters: list[int]
    tokens: list[int]
    parts: tuple[str, ...] = ()  # of a pass: what is said in each of its utterances

    @property
    def frames(self) -> int:
        return len(self.features)


class Timed(Protocol):
    """What has a length."""

    @property
    def frames(self) -> int: ...


Spoken = TypeVar("Spoken", bound=Timed)


def load(
    directory: Path, split: str, tokenizer: Tokenizer, characters: int, window: int, lead: str = ""
) -> list[Example]:
    """Every utterance that has room for its text: its characters in the frames, and its tokens.

    A token has `window` frames. The text's tokens are those behind `lead`.
    """
    examples, known = [], set(vocabulary())
    index = read_index(directory, split)
    for path in sorted(directory.glob(f"{split}-*.npy")):
        shard: npt.NDArray[Any] = np.load(path, mmap_mode="c")
        start = 0
        while start < len(shard):
            line = next(index)
            features = shard[start : start + line.frames]
            start += line.frames
            letters = encode_characters(line.text, characters)
            tokens: list[int] = []
            if known.issuperset(line.text.split()):
                tokens = tokenizer.encode(lead + line.text, add_special_tokens=False).ids
            fits = rows_needed(tokens) <= line.frames // window
            if fits and rows_needed(letters) <= line.frames:
                examples.append(Example(features, line.text, line.voice, letters, tokens))
    return examples


def batches(
    examples: Sequence[Spoken], frames: int, rng: random.Random, *, short_first: int = 0
) -> list[list[Spoken]]:
    """Random batches of at most about `frames` frames in all, each of similar lengths.

    Those whose utterances have at most `short_first` frames come before all others.
    """
    ordered = sorted(examples, key=lambda e: e.frames + rng.uniform(0, 8))
    groups: list[list[Spoken]] = [[]]
    longest = 0
    for example in ordered:
        longest = max(longest, example.frames)
        if groups[-1] and longest * (len(groups[-1]) + 1) > frames:
            groups.append([])
            longest = example.frames
        groups[-1].append(example)
    rng.shuffle(groups)
    return sorted(groups, key=lambda group: max(e.frames for e in group) > short_first)


def stacked(batch: list[Example]) -> Tensor:
    """Features (B, T, 160) in float32, the shorter utterances followed by silence."""
    longest = max(example.frames for example in batch)
    rows = []
    for example in batch:
        features = torch.from_numpy(example.features).float()
        silence = features.max() - QUIETEST
        rows.append(silence.repeat(longest, features.shape[1]))
        rows[-1][: len(features)] = features
    return torch.stack(rows)
