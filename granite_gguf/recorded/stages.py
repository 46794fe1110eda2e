"""What an architecture tells of its stages, so that they can be compared one by one.

a model, samples ──→ record ──→ Recorded
a model, Recorded ─→ run ─→ Computed of a stage of numbers, Outcome of one of ids or of a text
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Generic, Protocol

import numpy as np

from granite_gguf.arrays import AnyArray, FloatArray, IntArray
from granite_gguf.ggml.types import GGMLType
from granite_gguf.recorded.outputs import Names, Recorded
from granite_gguf.spec.format import H
from granite_gguf.spec.hparams import Encoder

TRANSCRIBE = "transcribe"


@dataclass(frozen=True)
class StageSpec:
    """One row of the table of stages.

    Attributes:
        name: the stage; of one of numbers, the output's.
        needs: the reference's outputs it starts from and is compared with.
        parts: the parts of the model it runs through, whose types decide its threshold.
        exact: whether ids or a text are compared, not rows of numbers.
        optional: left out where the reference does not have it.
    """

    name: str
    needs: tuple[str, ...]
    parts: tuple[str, ...]
    exact: bool = False
    optional: bool = False


@dataclass(frozen=True)
class Computed:
    """What a stage of numbers makes.

    Attributes:
        array: ``(rows, features)``.
        notes: what a reader must know beside the figures.
        frames_per_row: encoder frames from one row to the next; None where rows are not of time.
    """

    array: AnyArray
    notes: tuple[str, ...] = ()
    frames_per_row: int | None = 1


@dataclass(frozen=True)
class Outcome:
    """How ids or a text compare with what was expected.

    Attributes:
        count: how many were expected.
        agreement: 1 where they are equal, less by each difference.
        notes: what differs, and what else a reader must know.
        wrong: whether something is wrong that the agreement does not tell.
    """

    count: int
    agreement: float
    notes: tuple[str, ...] = ()
    wrong: bool = False


class IsolatedStages(Protocol):
    """Runs a model's stages, each from the reference's own inputs."""

    def compute(self, name: str) -> Computed:
        """A stage of numbers."""

    def compare(self, name: str) -> Outcome:
        """A stage of ids or of a text."""


Transcribe = Callable[[FloatArray], str]
"""The text of mono samples ``(n,)``, from end to end."""


@dataclass(frozen=True)
class Parity(Generic[H]):
    """How the models of an architecture are compared.

    Attributes:
        table: the stages of a model, in the order of the data, for a reference.
        widths: of a model's outputs, by name.
        problems: what else of a reference cannot be such a model's.
        record: every output of mono samples ``(n,)``, by what runs a model's stages.
        run: the stages of a model, by what runs them, for a reference of mono samples ``(n,)``.
        besides: what is held besides the file's weights, and in which type.
    """

    table: Callable[[H, Recorded], Sequence[StageSpec]]
    widths: Callable[[H], Mapping[str, int]]
    problems: Callable[[H, Recorded], Iterable[str]]
    record: Callable[[Any, FloatArray], Recorded]
    run: Callable[[Any, Recorded, FloatArray, Transcribe], IsolatedStages]
    besides: Callable[[Any], Mapping[str, GGMLType]] = lambda _: {}


def layer_names(e: Encoder) -> list[str]:
    """The captured encoder layers of a model by name, each once."""
    return [f"{Names.ENCODER_LAYER}{k}" for k in dict.fromkeys(e.captured_blocks)]


def unequal_rows(recorded: Recorded, alike: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Pairs of outputs that should have as many rows as one another, and have not."""
    rows = recorded.rows()
    for a, b in alike:
        if a in rows and b in rows and rows[a] != rows[b]:
            yield f"{a} has {rows[a]} rows, {b} {rows[b]}"


def compare_texts(text: str, expected: str) -> Outcome:
    """1 - edit distance / length."""
    notes = () if text == expected else (f"{text!r}, the reference's {expected!r}",)
    return Outcome(len(expected), agreement(text, expected), notes)


def compare_ids(ids: Sequence[int], expected: Sequence[int]) -> Outcome:
    """1 - edit distance / length."""
    notes: tuple[str, ...] = ()
    if list(ids) != list(expected):
        pairs = enumerate(zip_longest(ids, expected, fillvalue="none"))
        first, (found, wanted) = next((n, pair) for n, pair in pairs if pair[0] != pair[1])
        notes = (f"id {first} is {found}, the reference's {wanted}",)
    return Outcome(len(expected), agreement(list(ids), list(expected)), notes)


def compare_best(ids: IntArray, expected: IntArray) -> Outcome:
    """The share of equal ids, row by row."""
    equal = ids == expected
    notes: tuple[str, ...] = ()
    if not equal.all():
        first = int(np.flatnonzero(~equal)[0])
        notes = (
            f"{int((~equal).sum())} of {len(equal)} ids differ, the first in row {first}: "
            f"{ids[first]}, the reference's {expected[first]}",
        )
    return Outcome(len(expected), float(equal.mean()), notes)


def agreement(actual: Sequence[Any], expected: Sequence[Any]) -> float:
    """1 for equal sequences, less by each edit: 1 - edit distance / the longer one's length."""
    if actual == expected:
        return 1.0
    longest = max(len(actual), len(expected))
    return 1.0 - _edit_distance(actual, expected) / longest if longest else 1.0


def _edit_distance(a: Sequence[Any], b: Sequence[Any]) -> int:
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
    return row[-1]
