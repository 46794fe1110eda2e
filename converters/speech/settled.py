"""What files of the autoregressive model from elsewhere leave open, as far as it can be known."""

from __future__ import annotations

from dataclasses import replace

from granite_gguf.converters.safetensors_source import PART_BYTES
from granite_gguf.converters.speech.prompts import prompt_of
from granite_gguf.spec.tensors import LLAMA_NAMES
from granite_gguf.speech.spec import HParams
from granite_gguf.storage.model_file import ModelFile

_EMBEDDING, _HEAD = LLAMA_NAMES.embedding, LLAMA_NAMES.head


def settled(file: ModelFile[HParams]) -> ModelFile[HParams]:
    """The file with what its variant and its tensors tell.

    A head that is a second copy of the embedding is none of its own.
    """
    h = file.hparams
    if not h.prompt.default:
        h = replace(h, prompt=prompt_of(h))
    if not h.llm.tie_word_embeddings and _head_is_embedding(file):
        h = replace(h, llm=replace(h.llm, tie_word_embeddings=True))
    return replace(file, hparams=h, specs=file.format.tensors(h))


def _head_is_embedding(file: ModelFile[HParams]) -> bool:
    """Whether both hold the same bytes; read in parts, for they are large."""
    info, other = file.info(_HEAD), file.info(_EMBEDDING)
    if (info.type, info.shape) != (other.type, other.shape):
        return False
    for start in range(0, info.byte_count, PART_BYTES):
        count = min(PART_BYTES, info.byte_count - start)
        head, embedding = (file.read_bytes(name, start, count) for name in (_HEAD, _EMBEDDING))
        if (head != embedding).any():
            return False
    return True
