"""The second miniature's dimensions, directory and starting point: autoregressive, base layout.

Its encoder is the first one's, to the last bit. The character head becomes one of 256 labels, the
code points of Latin-1, as in the released models, whose files do not tell the labels.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from granite_gguf.reference import load_model
from granite_gguf.reference.speech.config import SpeechConfig
from granite_gguf.reference.speech.layouts import read_config
from granite_gguf.reference.speech.model import GraniteSpeech, checkpoint_key
from granite_gguf.reference.speech.prompt import AUDIO, prompt_text
from tests.support.checkpoint.configs import char2idx
from tests.support.checkpoint.sizes import EditorSize, VocabularySize
from tests.support.checkpoint.speech import QFormerSize, SpeechSize, write_speech_configs
from training import miniature
from training.forms import Forms
from training.tokens import grammar_texts, write_trained_tokenizer

FIRST = Path(__file__).parent / "checkpoint"  # whose encoder it is

SIZE = SpeechSize(
    encoder=replace(miniature.SIZE.encoder, characters=256),
    projector=QFormerSize(hidden=256, heads=4, ffn=512),
    language=EditorSize(layers=6, hidden=256, heads=4, kv_heads=2, ffn=512),
    vocabulary=VocabularySize(bpe=1263, added=17),
)

# Tells what it is asked with: the instructions of this model.
ASKED_AS = "granite-speech-4.1-2b"

MAX_PASS_SECONDS = 16.0  # up to which about one word in a hundred is wrong, see its card

HEAD_STD = 0.06
IMPOSSIBLE = -30.0  # a label that the encoder never learned


def write_directory(directory: Path) -> None:
    """Configurations, chat template and tokenizer of a checkpoint that has no weights yet."""
    directory.mkdir(parents=True, exist_ok=True)
    write_speech_configs(directory, "base", SIZE, "BF16")
    miniature.amend(directory / "config.json", _name_or_path=ASKED_AS)
    miniature.amend(directory / "preprocessor_config.json", max_pass_seconds=MAX_PASS_SECONDS)
    write_trained_tokenizer(directory, SIZE.vocabulary, _texts(directory), last=AUDIO)


def _texts(directory: Path) -> Iterator[str]:
    """Sentences in all forms, as they follow what asks for them."""
    rng = random.Random(0)
    before, behind = around(directory)
    for raw in grammar_texts():
        forms = Forms.of(raw)
        for task in (*forms.fixed(), forms.with_keywords(rng)):
            yield f"{before}{task.instruction}{behind}"
            yield f" {task.text}"


def around(directory: Path) -> tuple[str, str]:
    """A prompt's text before the audio, and behind the instruction that follows it."""
    before, behind = prompt_text(directory, "base", "").split(AUDIO)
    return before, behind


def untrained(
    directory: Path, seed: int, encoder: Mapping[str, Tensor] | None = None
) -> tuple[GraniteSpeech, SpeechConfig]:
    """The model that the directory's configuration describes: a trained encoder, nothing else.

    `encoder` is the state of the first miniature's, if it is not that of its checkpoint.
    """
    config = read_config(directory)
    torch.manual_seed(seed)
    model = GraniteSpeech(config)
    miniature.begin_widely(model.language)
    assert model.language.head is not None
    torch.nn.init.normal_(model.language.head.weight, std=HEAD_STD)
    # Audio rows begin at the size of the embeddings, among which they stand.
    torch.nn.init.normal_(model.projector.linear.weight, std=miniature.EMBEDDING_STD / 16)
    torch.nn.init.zeros_(model.projector.linear.bias)
    model.encoder.load_state_dict(_with_code_points(encoder or _first_encoder()))
    return model, config


def start_from(checkpoint: Path, model: GraniteSpeech) -> None:
    """Give projector and language model the weights of a checkpoint's directory."""
    tensors = load_file(checkpoint / "model.safetensors")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith("encoder."):
                parameter.copy_(tensors[checkpoint_key(name)].reshape(parameter.shape))


def _first_encoder() -> dict[str, Tensor]:
    return load_model(FIRST).encoder.state_dict()


def _with_code_points(first: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The first miniature's encoder with characters at their code points, without its BPE head."""
    state = {name: t for name, t in first.items() if not name.startswith("out_bpe.")}
    ids = char2idx(miniature.SIZE.encoder.characters)
    places = torch.tensor([0, *(ord(character) for character in ids)])
    labels = torch.tensor([0, *ids.values()])
    size, width = SIZE.encoder.characters, SIZE.encoder.hidden
    weight, back = torch.zeros(size, width), torch.zeros(width, size)
    bias = torch.full((size,), IMPOSSIBLE)
    weight[places], bias[places] = state["out.weight"][labels], state["out.bias"][labels]
    back[:, places] = state["out_mid.weight"][:, labels]
    return state | {"out.weight": weight, "out.bias": bias, "out_mid.weight": back}
