"""Which keywords an autoregressive model is told."""

from __future__ import annotations

import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import granite_gguf
from granite_gguf import Model
from granite_gguf.passes import Hotword
from granite_gguf.speech.keywords import chosen

KNOWN = {character: n for n, character in enumerate(f" {string.ascii_lowercase}", 1)}
NAMED = Path(__file__).parent / "data" / "names.flac"
OTHERS = [f"{a}o{b}i{c}u" for a in "bdfgklmpz" for b in "nrstvwx" for c in "bdgkmnprt"]


def heard(text: str, second: str = "", share: float = 0.01) -> np.ndarray:
    """Logits of a head that hears a text, or with some probability another one as long."""
    logits = np.full((2 * len(text) + 2, 28), np.log(1e-5), np.float32)
    logits[::2, 0] = 0
    for n, letters in enumerate(zip(text, second or text, strict=True)):
        for letter, probability in zip(letters, (1.0, share), strict=True):
            at = logits[2 * n + 1]
            at[KNOWN[letter]] = max(at[KNOWN[letter]], np.log(probability))
    return logits


def told(terms: list[str], logits: np.ndarray) -> tuple[str, ...]:
    return chosen(tuple(map(Hotword, terms)), KNOWN, logits)


def test_it_is_told_what_it_may_hear_in_the_order_of_the_list() -> None:
    logits = heard(" call anna in oslo ")
    assert told(["Oslo", "Paris", "Anna", "Vilnius", "Mallory"], logits) == ("Oslo", "Anna")


def test_a_name_may_be_spelled_unlike_it_is_heard() -> None:
    """A wrong letter costs 11.5 nats, and of four terms each may cost 7.4 for a letter less 9."""
    assert told(["Paris", "Mikhol", "Rome", "Bonn"], heard(" michal ")) == ("Mikhol",)
    assert told(["Paris", "Pera", "Rome", "Bonn"], heard(" peta ")) == ("Pera",)
    assert told(["Paris", "Pora", "Rome", "Bonn"], heard(" peta ")) == ()


def test_of_terms_in_the_same_place_the_likelier_one_is_told() -> None:
    logits = heard(" call anka ", " call anna ")
    assert told(["Paris", "Anna", "Anka", "Rome"], logits) == ("Anka",)


def test_what_the_encoder_cannot_write_is_told_and_there_is_an_end() -> None:
    logits = heard(" ".join(["", *OTHERS[:20], ""]))
    assert told(["Paris", "東京", OTHERS[1], "Rome"], logits) == ("東京", OTHERS[1])
    assert len(told([*OTHERS, "東京"], logits)) == 10
    assert told(["Paris", "Rome"], heard(" nothing ")) == ()


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    with granite_gguf.load("demo:base", threads=1) as loaded:
        yield loaded


def test_a_name_among_hundreds_is_spelled_as_alone(model: Model) -> None:
    samples = soundfile.read(NAMED, dtype="float32")[0]
    alone = model.transcribe(samples, hotwords=["Oskar"])
    many = model.transcribe(samples, hotwords=[*OTHERS, "Oskar"])
    assert "hotwords" in many.timings
    assert many.text == alone.text != model.transcribe(samples, punctuation=False).text


@pytest.mark.parametrize("wish", [{}, {"task": "translate", "to": "es"}])
def test_nothing_changes_where_no_keyword_is_heard(model: Model, wish: dict[str, Any]) -> None:
    """Told of any keyword, it would write the name that is said otherwise."""
    samples = soundfile.read(NAMED, dtype="float32")[0]
    plain = model.transcribe(samples, **(wish or {"punctuation": False}))
    assert model.transcribe(samples, hotwords=["Robbert", "Pieter"], **wish).text == plain.text
