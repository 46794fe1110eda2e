"""Tokenizers built from tokens and merges, against the checkpoint's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from granite_gguf.architectures import open_model_file
from granite_gguf.tokenizer import SpeechTokenizer, load_tokenizer
from tests.gguf_editing import rewrite

TEXTS = [
    "ask not what your country can do for you",
    "It's 1234567 o'clock, isn't it?  Yes!\n\nNo.",
    "ÇA VA? Größe, señor; 日本語 test\ttab",
    " a  b   c ",
    "x<|end_of_text|>y<think>z",
]


@pytest.fixture(scope="module", params=["typed", "published"])
def built(request: pytest.FixtureRequest, f32_files: dict[str, Path], workspace: Path) -> (
    SpeechTokenizer
):  # fmt: skip
    """A file without tokenizer.json, and one without token types as well."""
    drop = ["tokenizer.huggingface.json"]
    if request.param == "published":
        drop += [
            f"tokenizer.ggml.{key}"
            for key in ("model", "pre", "token_type", "bos_token_id", "eos_token_id")
        ]
    target = workspace / f"tokens-{request.param}.gguf"
    return load_tokenizer(open_model_file(rewrite(f32_files["nle"], target, drop=drop)))


@pytest.mark.parametrize("text", TEXTS)
def test_built_as_the_checkpoints_own(
    built: SpeechTokenizer, checkpoints: dict[str, Path], text: str
) -> None:
    own = Tokenizer.from_file(str(checkpoints["nle"] / "tokenizer.json"))
    ids = own.encode(text, add_special_tokens=False).ids
    assert built.encode(text).tolist() == ids
    assert built.decode(ids) == own.decode(ids, skip_special_tokens=True)


def test_added_tokens_that_are_not_special_survive(
    built: SpeechTokenizer, checkpoints: dict[str, Path]
) -> None:
    own = Tokenizer.from_file(str(checkpoints["nle"] / "tokenizer.json"))
    special, plain = own.token_to_id("<|end_of_text|>"), own.token_to_id("<think>")
    assert special is not None and plain is not None
    assert built.decode([special, plain, special]) == "<think>"


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("", " "),  # an empty hypothesis is edited as one space
        ("   ", " "),
        (" Ask NOT ", "ask not"),
        ("ÉTÉ ÜBER Σ", "été über σ"),  # Unicode, not ASCII
        ("don't 12345", "don't 12345"),
    ],
)
def test_hypotheses_of_the_first_release_are_normalised(
    f32_files: dict[str, Path], text: str, normal: str
) -> None:
    tokenizer = load_tokenizer(open_model_file(f32_files["nle"]))
    result = tokenizer.normalise_hypothesis(tokenizer.encode(text))
    assert tokenizer.decode(result) == normal
    assert result.tolist() == tokenizer.encode(normal).tolist()


def test_empty_hypothesis_keeps_its_space(f32_files: dict[str, Path]) -> None:
    tokenizer = load_tokenizer(open_model_file(f32_files["nle"]))
    assert len(tokenizer.normalise_hypothesis(np.array([], np.int64))) == 1
