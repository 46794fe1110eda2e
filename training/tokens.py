"""The miniature's own byte-level BPE tokenizer and its characters."""

from __future__ import annotations

import json
import random
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from tests.support.checkpoint.configs import char2idx
from tests.support.checkpoint.sizes import VocabularySize
from tests.support.checkpoint.tokenizer import BYTE_LETTERS, write_tokenizer
from training.grammar import sentence

SENTENCES = 20_000
SEED = 1


def write_trained_tokenizer(directory: Path, vocabulary: VocabularySize) -> None:
    """Write tokenizer.json in the published structure, with merges learned from the grammar."""
    write_tokenizer(directory, vocabulary, slow_files=False)
    path = directory / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    merges = learn_merges(Tokenizer.from_file(str(path)).pre_tokenizer, vocabulary)
    pieces = [*BYTE_LETTERS.values(), *(left + right for left, right in merges)]
    content["model"]["vocab"] = {piece: number for number, piece in enumerate(pieces)}
    content["model"]["merges"] = merges
    text = json.dumps(content, ensure_ascii=False, indent=2)
    path.write_text(text + "\n", encoding="utf-8")


def learn_merges(
    split: pre_tokenizers.PreTokenizer, vocabulary: VocabularySize
) -> list[tuple[str, str]]:
    """The merges that BPE finds in random sentences of the grammar, in order of priority."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = split
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary.bpe, initial_alphabet=list(BYTE_LETTERS.values()), show_progress=False
    )
    rng = random.Random(SEED)
    tokenizer.train_from_iterator((sentence(rng).text for _ in range(SENTENCES)), trainer)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    if len(merges) != vocabulary.bpe - len(BYTE_LETTERS):
        raise ValueError(f"the grammar gives only {len(merges)} merges")
    return [(left, right) for left, right in merges]


def encode_characters(text: str, characters: int) -> list[int]:
    """Ids of the character head; 0 is its blank."""
    ids = char2idx(characters)
    return [ids[character] for character in text]
