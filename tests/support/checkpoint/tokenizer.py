"""A byte-level BPE tokenizer shaped like Granite 4's, with merges made up from letters.

Ids: the 256 bytes in GPT-2 spelling, then one piece per merge, then the added tokens.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice, product
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tests.support.checkpoint.sizes import VocabularySize

# cl100k: contractions, letter runs with one leading other character, digits in groups of up to
# three, punctuation runs, white space.
SPLIT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

MODEL_MAX_LENGTH = 4096

# Granite 4's added tokens in id order, and whether they are special; unused ones follow.
_ADDED_TOKENS = (
    ("<|pad|>", True),
    ("<|end_of_text|>", True),
    ("<|fim_prefix|>", False),
    ("<|fim_middle|>", False),
    ("<|fim_suffix|>", False),
    ("<|fim_pad|>", False),
    ("<|filename|>", False),
    ("<|reponame|>", False),
    ("<|start_of_role|>", True),
    ("<|end_of_role|>", True),
    ("<|unused_1|>", True),
    ("<|start_of_plugin|>", True),
    ("<|end_of_plugin|>", True),
    ("<|unk|>", True),
    ("<tool_call>", False),
    ("</tool_call>", False),
    ("<tool_response>", False),
    ("</tool_response>", False),
    ("<think>", False),
    ("</think>", False),
    ("<think_on>", True),
    ("<think_off>", True),
    ("<schema>", True),
    ("</schema>", True),
    ("<tools>", True),
    ("</tools>", True),
    ("<documents>", True),
    ("</documents>", True),
)

_SPACE = "Ġ"
_VOWELS = "eaoiu"
_CONSONANTS = "tnshrdlcmwfgypbvkjxqz"
_LETTERS = "etaoinshrdlcumwfgypbvkjxqz"
_ACCENTED = "éèêëáàâäãåíìîïóòôöõúùûüçñßæøœÉÀÇÑÖÜ"
_DIGITS = "0123456789"

_NAMED = MappingProxyType({"bos": 1, "eos": 1, "pad": 0, "unk": 13})  # places in _ADDED_TOKENS


def _byte_letters() -> Mapping[int, str]:
    """GPT-2's spelling of each byte, in id order: printable ones as they are, then the others."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1)]
    printable += range(ord("®"), ord("ÿ") + 1)
    others = [byte for byte in range(256) if byte not in printable]
    spelled = {byte: chr(byte) for byte in printable}
    spelled |= {byte: chr(256 + n) for n, byte in enumerate(others)}
    return MappingProxyType(spelled)


BYTE_LETTERS = _byte_letters()


def unspoken_ids(vocabulary: VocabularySize) -> frozenset[int]:
    """Return the ids that are no text by themselves: lone odd bytes and special tokens."""
    odd_bytes = {i for i, byte in enumerate(BYTE_LETTERS) if not ord("!") <= byte <= ord("~")}
    special = {i for i, _, is_special in added_tokens(vocabulary) if is_special}
    return frozenset(odd_bytes | special)


def added_tokens(vocabulary: VocabularySize) -> Iterator[tuple[int, str, bool]]:
    """Yield (id, content, special) of the tokens after the BPE ids."""
    for n in range(vocabulary.added):
        if n < len(_ADDED_TOKENS):
            yield vocabulary.bpe + n, *_ADDED_TOKENS[n]
        else:
            yield vocabulary.bpe + n, f"<|unused_{n - len(_ADDED_TOKENS) + 2}|>", True


def merges(vocabulary: VocabularySize) -> list[tuple[str, str]]:
    """Return the merges in order of priority, one per BPE id after the bytes."""
    count = vocabulary.bpe - len(BYTE_LETTERS)
    found = list(islice(_endless_merges(), count))
    if len(found) < count:
        raise ValueError(f"only {len(found)} merges can be made up, not {count}")
    return found


def _endless_merges() -> Iterator[tuple[str, str]]:
    """Yield merges from short to long; the parts of each are bytes or results of earlier ones."""
    for character in _ACCENTED:
        first, second = character.encode()
        yield BYTE_LETTERS[first], BYTE_LETTERS[second]
    yield from product(_SPACE, _LETTERS)
    open_pairs = list(product(_CONSONANTS, _VOWELS))
    closed_pairs = list(product(_VOWELS, _CONSONANTS))
    yield from _with_space(open_pairs)
    yield from _with_space(closed_pairs)
    yield from product("'", "stmd")
    yield from product(_SPACE, _LETTERS.upper())
    known = {*open_pairs, *closed_pairs}
    yield from _with_space(pair for pair in product(_LETTERS, _LETTERS) if pair not in known)

    opened, closed = _joined(open_pairs), _joined(closed_pairs)
    syllables = list(product(opened, _CONSONANTS))
    yield from _with_space(syllables)
    digit_pairs = list(product(_DIGITS, _DIGITS))
    yield from digit_pairs
    yield from product(_joined(digit_pairs), _DIGITS)
    known = set(syllables)
    triples = product(_joined(product(_LETTERS, _LETTERS)), _LETTERS)
    yield from _with_space(triple for triple in triples if triple not in known)
    for left, right in product((opened, closed), repeat=2):
        yield from _with_space(product(left, right))


def _joined(pairs: Iterable[tuple[str, str]]) -> list[str]:
    return [left + right for left, right in pairs]


def _with_space(pairs: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Follow each merge by the one that makes the same piece at the start of a word."""
    for left, right in pairs:
        yield left, right
        yield _SPACE + left, right


def write_tokenizer(
    directory: Path, vocabulary: VocabularySize, *, slow_files: bool, last: str | None = None
) -> None:
    """Write tokenizer.json and its configuration; `slow_files` adds vocab.json and merges.txt.

    `last` replaces the content of the last added token.
    """
    merged = merges(vocabulary)
    vocab = {piece: i for i, piece in enumerate(BYTE_LETTERS.values())}
    vocab |= {left + right: len(vocab) + n for n, (left, right) in enumerate(merged)}
    added = [_added_token(*token) for token in added_tokens(vocabulary)]
    if last is not None:
        added[-1]["content"] = last
    _write(directory / "tokenizer.json", _tokenizer_json(vocab, merged, added))
    _write(directory / "tokenizer_config.json", _tokenizer_config(added))
    if slow_files:
        _write(directory / "vocab.json", vocab)
        lines = ["#version: 0.2", *(f"{left} {right}" for left, right in merged)]
        (directory / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_special_tokens_map(directory: Path) -> None:
    """Write special_tokens_map.json, as transformers did before version 5."""
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    named = {
        f"{role}_token": {"content": _ADDED_TOKENS[n][0], **flags} for role, n in _NAMED.items()
    }
    _write(directory / "special_tokens_map.json", named)


def _added_token(token_id: int, content: str, special: bool) -> dict[str, Any]:
    return {
        "id": token_id,
        "content": content,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": special,
    }


def _tokenizer_json(
    vocab: dict[str, int], merged: list[tuple[str, str]], added: list[dict[str, Any]]
) -> dict[str, Any]:
    def byte_level(**changes: bool) -> dict[str, Any]:
        defaults = {"add_prefix_space": True, "trim_offsets": True, "use_regex": True}
        return {"type": "ByteLevel", **defaults, **changes}

    split = {
        "type": "Split",
        "pattern": {"Regex": SPLIT_PATTERN},
        "behavior": "Isolated",
        "invert": False,
    }
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [split, byte_level(add_prefix_space=False, use_regex=False)],
        },
        "post_processor": byte_level(trim_offsets=False),
        "decoder": byte_level(),
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": merged,
        },
    }


def _tokenizer_config(added: list[dict[str, Any]]) -> dict[str, Any]:
    decoder = {
        str(token["id"]): {key: token[key] for key in token if key != "id"} for token in added
    }
    return {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": decoder,
        **{f"{role}_token": _ADDED_TOKENS[n][0] for role, n in _NAMED.items()},
        "clean_up_tokenization_spaces": False,
        "errors": "replace",
        "model_max_length": MODEL_MAX_LENGTH,
        "padding_side": "left",
        "tokenizer_class": "GPT2Tokenizer",
    }


def _write(path: Path, content: dict[str, Any]) -> None:
    text = json.dumps(content, ensure_ascii=False, indent=None if path.stem == "vocab" else 2)
    path.write_text(text + "\n", encoding="utf-8")
