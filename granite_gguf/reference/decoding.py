"""From arg-max ids to text: pure functions on integer sequences.

BPE arg-max -> collapse -> hypothesis tokens -> (nle: text and back) -> slots -> text ids
editor arg-max -> collapse -> transcript
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from tokenizers import Tokenizer


def collapse(ids: Iterable[int], blank: int) -> list[int]:
    """Greedy CTC: merge runs, then drop blanks, so that A _ A stays A A."""
    return [run for run, _ in groupby(ids) if run != blank]


def hypothesis_tokens(bpe_ids: Iterable[int], blank: int, shift: int) -> list[int]:
    """Tokens of the arg-max ids of the BPE head; `shift` is what an id lies above its token."""
    return [run - shift for run in collapse(bpe_ids, blank)]


def decode(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """Text of the tokens without the special ones, otherwise untouched: no strip, no clean-up."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=True))


def retokenize(tokenizer: Tokenizer, ids: Sequence[int]) -> tuple[str, list[int]]:
    """The first release's detour through text: (normalised text, its tokens).

    An empty text becomes one space, before the normalisation and again after it.
    """
    text = (decode(tokenizer, ids) or " ").strip().lower() or " "
    return text, list(tokenizer.encode(text, add_special_tokens=False).ids)


def insert_slots(ids: Sequence[int], filler: int, min_length: int) -> list[int]:
    """[f, t1, f, t2, ..., tn, f], filled up with f to at least `min_length`."""
    slots = [filler] * max(2 * len(ids) + 1, min_length)
    slots[1 : 2 * len(ids) : 2] = ids
    return slots


def transcript(tokenizer: Tokenizer, edited_ids: Iterable[int], blank: int) -> str:
    """Text of the editor's arg-max ids."""
    return decode(tokenizer, collapse(edited_ids, blank))
