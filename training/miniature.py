"""The miniature's dimensions, its directory of configurations, and its untrained weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch

from granite_gguf.reference import Editor, GraniteSpeechNar, ModelConfig, read_config
from granite_gguf.reference.speech.language import Language
from tests.support.checkpoint.configs import char2idx, write_configs
from tests.support.checkpoint.sizes import SMALL, ModelSize, VocabularySize
from training.tokens import grammar_texts, write_trained_tokenizer

LAYOUT = "granite_speech_nar"

# The generator's small size, so that the same quantizations apply as to the full model. The
# miniature knows fewer characters and pieces, edits with another layer, and needs no more positions
# in the table than a block of attention can use.
SIZE = ModelSize(
    encoder=replace(SMALL.encoder, characters=32, feedforward_mult=3, max_pos_emb=200),
    projector=replace(SMALL.projector, mlp_ratio=1),
    editor=replace(SMALL.editor, layers=5),
    vocabulary=VocabularySize(bpe=496, added=16),
)

# After the stage `passes`, see the model's card. Without it sentences of 2 to 10 s are all that the
# editor ever saw, and beyond 6 s it spoils them.
MAX_PASS_SECONDS = 20.0

# Granite's multipliers (12 on embeddings, 0.22 on every branch, 1/128 on scores) drown a usual
# start in the embeddings: the editor could only copy its hypothesis. So its matrices start wide.
EMBEDDING_STD = 0.05
MATRIX_STD = 0.12
QUERY_KEY_STD = 0.2


def write_directory(directory: Path) -> None:
    """Configurations and tokenizer of a checkpoint that has no weights yet."""
    directory.mkdir(parents=True, exist_ok=True)
    write_configs(directory, LAYOUT, SIZE, "BF16")
    amend(directory / "preprocessor_config.json", max_pass_seconds=MAX_PASS_SECONDS)
    characters = {"char2idx": char2idx(SIZE.encoder.characters)}
    amend(directory / "config.json", ctc_tokenizer_config=characters)
    write_trained_tokenizer(directory, SIZE.vocabulary, grammar_texts())


def amend(path: Path, **fields: object) -> None:
    """Put more fields into a JSON file."""
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(content | fields, indent=2) + "\n", encoding="utf-8")


def untrained(directory: Path, seed: int) -> tuple[GraniteSpeechNar, ModelConfig]:
    """The model that the directory's configuration describes, at its starting point."""
    config = read_config(directory)
    torch.manual_seed(seed)
    model = GraniteSpeechNar(config)
    begin_widely(model.editor)
    for name, parameter in model.encoder.named_parameters():
        if name.endswith("rel_pos_emb.weight"):
            torch.nn.init.normal_(parameter, std=0.1)
    return model, config


def begin_widely(granite: Editor | Language) -> None:
    """The starting point of a language model."""
    torch.nn.init.normal_(granite.embed_tokens.weight, std=EMBEDDING_STD)
    for name, parameter in granite.layers.named_parameters():
        if name.endswith("_proj.weight"):
            blind = name.endswith(("q_proj.weight", "k_proj.weight"))
            torch.nn.init.normal_(parameter, std=QUERY_KEY_STD if blind else MATRIX_STD)
