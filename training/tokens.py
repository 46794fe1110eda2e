"""The miniatures' own byte-level BPE tokenizers and their characters."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from tests.support.checkpoint.configs import char2idx
from tests.support.checkpoint.sizes import VocabularySize
from tests.support.checkpoint.tokenizer import BYTE_LETTERS, write_tokenizer
from training.grammar import sentence

SENTENCES = 20_000
SEED = 1


def write_trained_tokenizer(
    directory: Path, vocabulary: VocabularySize, texts: Iterable[str], last: str | None = None
) -> None:
    """Write tokenizer.json in the published structure, with merges learned from the texts.

    `last` replaces the last added token.
    """
    write_tokenizer(directory, vocabulary, slow_files=False, last=last)
    path = directory / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    merges = learn_merges(Tokenizer.from_file(str(path)).pre_tokenizer, vocabulary, texts)
    pieces = [*BYTE_LETTERS.values(), *(left + right for left, right in merges)]
    content["model"]["vocab"] = {piece: number for number, piece in enumerate(pieces)}
    content["model"]["merges"] = merges
    text = json.dumps(content, ensure_ascii=False, indent=2)
    path.write_text(text + "\n", encoding="utf-8")


def grammar_texts() -> Iterator[str]:
    """Random sentences of the grammar."""
    rng = random.Random(SEED)
    return (sentence(rng).text for _ in range(SENTENCES))


def learn_merges(
    split: pre_tokenizers.PreTokenizer, vocabulary: VocabularySize, texts: Iterable[str]
) -> list[tuple[str, str]]:
    """The merges that BPE finds in texts, in order of priority."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = split
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary.bpe, initial_alphabet=list(BYTE_LETTERS.values()), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    if len(merges) != vocabulary.bpe - len(BYTE_LETTERS):
        raise ValueError(f"the texts give only {len(merges)} merges")
    return [(left, right) for left, right in merges]


def encode_characters(text: str, characters: int) -> list[int]:
    """Ids of the character head; 0 is its blank."""
    ids = char2idx(characters)
    return [ids[character] for character in text]
