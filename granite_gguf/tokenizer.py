"""The model's byte-level BPE tokenizer, from a GGUF file.

A file of ours carries the checkpoint's ``tokenizer.json``. Files from elsewhere carry only tokens
and merges; theirs is built around the way to split a text that they name, or that their model has.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import TokenType
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from granite_gguf.arrays import IntArray
from granite_gguf.errors import ModelFileError, brief, library_errors
from granite_gguf.storage.dialects.dialect import TokenizerFacts
from granite_gguf.storage.keys import Keys
from granite_gguf.storage.model_file import ModelFile

# cl100k's: contractions; letters with one leading other character; up to three digits; punctuation;
# space.
_CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
_GPT_2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)

_SPLITS: dict[str, list[Any]] = {
    "dbrx": [pre_tokenizers.Split(Regex(_CL100K), behavior="isolated"), _BYTES],  # Granite 4
    "gpt-2": [_GPT_2],  # Granite 4.1 plus
    "refact": [pre_tokenizers.Digits(individual_digits=True), _GPT_2],  # Granite 3
}
"""By llama.cpp's names."""


class SpeechTokenizer:
    """Encodes and decodes text as the checkpoint's own tokenizer does."""

    def __init__(self, tokenizer: Tokenizer, path: Path) -> None:
        self._tokenizer = tokenizer
        self._path = path
        # A text is neither cut nor filled up, whatever the file asks for.
        tokenizer.no_truncation()
        tokenizer.no_padding()

    def encode(self, text: str) -> IntArray:
        """Token ids of a text, without BOS or EOS."""
        with library_errors(ModelFileError, f"{self._path}: its tokenizer cannot encode a text"):
            encoding = self._tokenizer.encode(text, add_special_tokens=False)
        return np.array(encoding.ids, dtype=np.int64)

    def decode(self, ids: Sequence[int] | npt.NDArray[np.integer]) -> str:
        """The text of token ids; special tokens are skipped, nothing is stripped."""
        with library_errors(ModelFileError, f"{self._path}: its tokenizer cannot decode a text"):
            return self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=True)

    def ends(self, ids: Sequence[int]) -> list[int]:
        """How many characters of the decoded text stand up to and with each token, rising.

        A token that ends within a character counts as if it ended behind it.
        """
        found: list[int] = []
        first, length = 0, 0  # the first token that may end within a character; what is before it
        for n in range(len(ids)):
            part = self.decode(ids[first : n + 1])
            end = length + len(part)
            # Two halves of a character are more of them than the whole.
            found[first:] = [min(before, end) for before in found[first:]] + [end]
            if not part.endswith("\ufffd"):
                first, length = n + 1, end
        return found

    def normalise_hypothesis(self, tokens: npt.NDArray[np.integer]) -> IntArray:
        """Tokens of the hypothesis' text stripped and lower-cased, as the first release edits it.

        An empty text stands as a single space.
        """
        text = (self.decode(tokens) or " ").strip().lower() or " "
        return self.encode(text)


def load_tokenizer(file: ModelFile[Any]) -> SpeechTokenizer:
    """The tokenizer of a model file.

    Raises:
        ModelFileError: the file has none, or it does not fit the model's vocabulary.
    """
    facts = file.tokenizer()
    with library_errors(ModelFileError, f"{file.path}: its tokenizer cannot be read"):
        tokenizer = (
            _build(file.path, facts)
            if facts.huggingface is None
            else Tokenizer.from_str(facts.huggingface)
        )
    if not tokenizer.get_vocab_size():
        raise ModelFileError(f"{file.path}: its tokenizer has no tokens")
    last = max(tokenizer.get_vocab().values())
    if last >= facts.vocabulary:
        raise ModelFileError(
            f"{file.path}: its tokenizer has a token {last}, its model only "
            f"{facts.vocabulary} tokens"
        )
    return SpeechTokenizer(tokenizer, file.path)


def _build(path: Path, facts: TokenizerFacts) -> Tokenizer:
    tokens, merges = facts.tokens, facts.merges
    if facts.split not in _SPLITS:
        raise ModelFileError(
            f"{path}: {Keys.Tokenizer.PRE} is {brief(facts.split)}, expected one of "
            f"{', '.join(_SPLITS)}: texts are split in no other way"
        )
    if not tokens or merges is None:
        raise ModelFileError(
            f"{path}: has no tokenizer: neither {Keys.Tokenizer.HUGGINGFACE} nor "
            f"{Keys.Tokenizer.TOKENS} with {Keys.Tokenizer.MERGES}"
        )
    pairs = [tuple(merge.split(" ")) for merge in merges]
    if any(len(pair) != 2 for pair in pairs):
        raise ModelFileError(f"{path}: {Keys.Tokenizer.MERGES} has an entry that is no pair")
    vocabulary = {token: i for i, token in enumerate(tokens)}
    model = models.BPE(vocab=vocabulary, merges=[(a, b) for a, b in pairs])
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(_SPLITS[facts.split])
    tokenizer.decoder = decoders.ByteLevel()
    special, ordinary = _added_tokens(facts, tokens)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    tokenizer.add_tokens([AddedToken(token, special=False) for token in ordinary])
    return tokenizer


def _added_tokens(facts: TokenizerFacts, tokens: list[str]) -> tuple[list[str], list[str]]:
    """Special tokens, which decoding skips, and other added ones, which it keeps."""
    types = facts.types
    if types is not None and len(types) == len(tokens):
        kinds = list(zip(tokens, types, strict=True))
        return (
            [token for token, kind in kinds if kind == TokenType.CONTROL],
            [token for token, kind in kinds if kind == TokenType.USER_DEFINED],
        )
    # Without types, the added tokens are those that are neither a byte nor merged from two others.
    merged = {merge.replace(" ", "") for merge in facts.merges or ()}
    merged.update(pre_tokenizers.ByteLevel.alphabet())
    added = [token for token in tokens if token and token not in merged]
    special = [token for token in added if token.startswith("<|") and token.endswith("|>")]
    return special, [token for token in added if token not in set(special)]
