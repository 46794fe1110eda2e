"""Collapse, hypotheses, slots and transcripts by hand."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers  # noqa: E402

from granite_gguf.reference.decoding import (  # noqa: E402
    collapse,
    decode,
    hypothesis_tokens,
    insert_slots,
    retokenize,
    transcript,
)
from tests.reference import tiny  # noqa: E402

BYTES = tiny.tokenizer()


def ids(text: str) -> list[int]:
    return list(BYTES.encode(text, add_special_tokens=False).ids)


@pytest.mark.parametrize(
    ("raw", "collapsed"),
    [
        ([], []),
        ([0, 0, 0], []),
        ([7, 0, 7], [7, 7]),
        ([7, 7, 0, 7, 7, 8, 8, 0], [7, 7, 8]),
        ([0, 5, 5, 5, 6, 5], [5, 6, 5]),
    ],
)
def test_collapse_merges_runs_before_it_drops_blanks(raw: list[int], collapsed: list[int]) -> None:
    assert collapse(raw, blank=0) == collapsed


def test_hypothesis_tokens_with_and_without_shift() -> None:
    raw = [0, 66, 66, 0, 66, 67, 0]
    assert hypothesis_tokens(raw, blank=0, shift=1) == [65, 65, 66]
    assert hypothesis_tokens([256, 66, 66, 256, 0], blank=256, shift=0) == [66, 0]


@pytest.mark.parametrize(
    ("tokens", "minimum", "slots"),
    [
        ([], 0, [9]),
        ([], 8, [9] * 8),
        ([1], 0, [9, 1, 9]),
        ([1, 2], 0, [9, 1, 9, 2, 9]),
        ([1, 2, 3], 8, [9, 1, 9, 2, 9, 3, 9, 9]),
        ([1, 2, 3, 4], 8, [9, 1, 9, 2, 9, 3, 9, 4, 9]),
    ],
)
def test_slots(tokens: list[int], minimum: int, slots: list[int]) -> None:
    assert insert_slots(tokens, filler=9, min_length=minimum) == slots


@pytest.mark.parametrize(
    ("recognised", "text"),
    [
        ("", " "),
        ("   ", " "),
        (" Hello There ", "hello there"),
        ("ÀÉ ΣΑΣ Ж", "àé σας ж"),  # Unicode lower-casing, with the final sigma
        ("a  b\n", "a  b"),
    ],
)
def test_retokenizing_normalises_and_never_loses_the_space(recognised: str, text: str) -> None:
    assert retokenize(BYTES, ids(recognised)) == (text, ids(text))


def test_retokenizing_skips_special_tokens_only() -> None:
    tokens = [tiny.EOS, *ids("A"), tiny.PAD, tiny.KEPT, *ids("B")]
    text, again = retokenize(BYTES, tokens)
    assert text == "a<kept>b"
    assert again == [*ids("a"), tiny.KEPT, *ids("b")]


def test_retokenizing_uses_the_tokenizers_own_split() -> None:
    """A merge across the split of letters and digits must not happen."""
    vocab = {symbol: rank for rank, symbol in enumerate(["a", "b", "1", "ab", "b1"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[("b", "1"), ("a", "b")]))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\p{L}+|\p{N}{1,3}"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    assert retokenize(tokenizer, [0, 1, 2]) == ("ab1", [3, 2])


def test_transcript_keeps_case_and_space() -> None:
    a, b, space = ids("A"), ids("b"), ids(" ")
    edited = [tiny.EOS, *space, *a, *a, tiny.EOS, *a, tiny.KEPT, *b, *b, *space, tiny.PAD]
    assert transcript(BYTES, edited, blank=tiny.EOS) == " AA<kept>b "
    assert transcript(BYTES, [tiny.EOS] * 8, blank=tiny.EOS) == ""


def test_decode_replaces_broken_bytes() -> None:
    assert decode(BYTES, ids("é")[:1]) == "\N{REPLACEMENT CHARACTER}"
