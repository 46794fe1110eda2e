"""The one module that knows the metadata keys of a ``granite_nle`` file.

Turns metadata into hyper-parameters and back. Files written elsewhere carry fewer keys: an absent
one means the behaviour of the model's first release, which those files hold.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import isfinite
from pathlib import Path
from typing import Any

import gguf

from granite_gguf.errors import ModelFileError, brief
from granite_gguf.spec.checks import contradiction
from granite_gguf.spec.hparams import Editor, Encoder, FrontEnd, HParams, Hypothesis, Projector
from granite_gguf.storage.container import MetadataValue, ValueType

ARCHITECTURE = "granite_nle"


class Keys:
    """Metadata keys, grouped as the format groups them."""

    class General:
        ARCHITECTURE = "general.architecture"
        NAME = "general.name"
        SIZE_LABEL = "general.size_label"
        FILE_TYPE = "general.file_type"
        QUANTIZATION_VERSION = "general.quantization_version"

    class CTC:
        VOCAB_SIZE = "granite_nle.ctc.vocab_size"
        VOCAB = "granite_nle.ctc.vocab"

    class Source:
        LAYOUT = "granite_nle.source.layout"
        REVISION = "granite_nle.source.revision"
        ARCHITECTURE = "granite_nle.source.architecture"
        VARIANT = "granite_nle.source.variant"
        FILE = "granite_nle.source.file"

    class Quantize:
        POLICY = "granite_nle.quantize.policy"
        IMATRIX_FILE = "quantize.imatrix.file"
        IMATRIX_DATASET = "quantize.imatrix.dataset"
        IMATRIX_ENTRIES = "quantize.imatrix.entries_count"
        IMATRIX_CHUNKS = "quantize.imatrix.chunks_count"

    class Tokenizer:
        MODEL = "tokenizer.ggml.model"
        PRE = "tokenizer.ggml.pre"
        TOKENS = "tokenizer.ggml.tokens"
        MERGES = "tokenizer.ggml.merges"
        TOKEN_TYPE = "tokenizer.ggml.token_type"
        BOS = "tokenizer.ggml.bos_token_id"
        EOS = "tokenizer.ggml.eos_token_id"
        PAD = "tokenizer.ggml.padding_token_id"
        HUGGINGFACE = "tokenizer.huggingface.json"


_REQUIRED: Any = object()


@dataclass(frozen=True)
class _Key:
    """How one hyper-parameter is stored: its key, its type, and what its absence means."""

    key: str
    field: str
    type: gguf.GGUFValueType
    default: Any = _REQUIRED


def _u32(prefix: str, *names: str, **renamed: str) -> list[_Key]:
    fields_by_key = {**{name: name for name in names}, **renamed}
    return [_Key(prefix + key, field, ValueType.UINT32) for key, field in fields_by_key.items()]


def _f32(prefix: str, *names: str) -> list[_Key]:
    return [_Key(prefix + name, name, ValueType.FLOAT32) for name in names]


_ENC, _PROJ, _LLM = "granite_nle.enc.", "granite_nle.proj.", "granite_nle.llm."

_KEYS: dict[type, list[_Key]] = {
    FrontEnd: [
        *_u32("granite_nle.", "sample_rate", "n_mels"),
        _Key("granite_nle.n_fft", "n_fft", ValueType.UINT32, FrontEnd.n_fft),
        _Key("granite_nle.win_length", "win_length", ValueType.UINT32, FrontEnd.win_length),
        _Key("granite_nle.hop_length", "hop_length", ValueType.UINT32, FrontEnd.hop_length),
        _Key("granite_nle.frame_stack", "frame_stack", ValueType.UINT32, FrontEnd.frame_stack),
        _Key("granite_nle.pad_last_frame", "pad_last_frame", ValueType.BOOL, False),
    ],
    Encoder: [
        *_u32(_ENC, "n_layers", "d_model", "n_heads", "head_dim", "input_dim", "conv_kernel"),
        _Key(_ENC + "conv_dim", "conv_dim", ValueType.UINT32, lambda e: 2 * e["d_model"]),
        *_u32(_ENC, "ff_dim", "context_size", "max_pos_emb", "ctc_vocab"),
        *_u32(_ENC, "self_conditioning_layer"),
        _Key(_PROJ + "encoder_layer_indices", "captured_layers", ValueType.STRING),
        _Key(_ENC + "capture_before_feedback", "capture_before_feedback", ValueType.BOOL, False),
    ],
    Hypothesis: [
        *_u32(_ENC, "bpe_vocab", bpe_pooling_window="pooling_window"),
        _Key(_ENC + "bpe_blank_id", "blank_id", ValueType.UINT32, Hypothesis.blank_id),
        _Key(_ENC + "bpe_id_shift", "id_shift", ValueType.UINT32, Hypothesis.id_shift),
        _Key("granite_nle.hypothesis.retokenize", "retokenize", ValueType.BOOL, True),
    ],
    Projector: [
        *_u32(_PROJ, "n_layers", "hidden_size", "n_heads", "mlp_ratio", "num_encoder_layers"),
        *_u32(_PROJ, "encoder_dim", "llm_dim", "block_size", "downsample_rate"),
        *_f32(_PROJ, "layernorm_eps"),
        _Key(_PROJ + "attn_bias", "attn_bias", ValueType.BOOL),
        _Key(_PROJ + "mlp_bias", "mlp_bias", ValueType.BOOL),
        _Key("granite_nle.scale_projected_embeddings", "scale_embeddings", ValueType.BOOL),
    ],
    Editor: [
        *_u32(_LLM, "n_layers", "d_model", "n_heads", "n_kv_heads", "head_dim", "ff_dim"),
        *_u32(_LLM, "vocab_size"),
        *_f32(_LLM, "rope_theta", "rms_norm_eps", "embedding_multiplier"),
        *_f32(_LLM, "attention_multiplier", "residual_multiplier", "logits_scaling"),
        _Key(_LLM + "apply_logits_scaling", "apply_logits_scaling", ValueType.BOOL, False),
        *_u32(_LLM, "eos_token_id", "bos_token_id", "pad_token_id"),
        _Key("granite_nle.min_edit_length", "min_edit_length", ValueType.UINT32, 8),
        _Key(_LLM + "max_positions", "max_positions", ValueType.UINT32, Editor.max_positions),
    ],
}

_TIED = "granite_nle.llm.tie_word_embeddings"


def hparams_metadata(hparams: HParams) -> dict[str, MetadataValue]:
    """Every hyper-parameter as metadata, in the format's keys and types."""
    metadata: dict[str, MetadataValue] = {}
    for stage in (getattr(hparams, f.name) for f in fields(HParams)):
        for entry in _KEYS[type(stage)]:
            value = getattr(stage, entry.field)
            if entry.field == "captured_layers":
                value = ",".join(map(str, value))
            metadata[entry.key] = MetadataValue(entry.type, value)
    metadata[_TIED] = MetadataValue(ValueType.BOOL, True)
    return metadata


def _read_value(path: Path, metadata: dict[str, MetadataValue], entry: _Key) -> Any:
    found = metadata.get(entry.key)
    if found is None:
        return _REQUIRED
    integers = {ValueType.UINT32, ValueType.INT32, ValueType.UINT64, ValueType.INT64}
    same = found.type == entry.type or {found.type, entry.type} <= integers
    if not same or (entry.type is ValueType.UINT32 and found.value < 0):
        raise ModelFileError(
            f"{path}: {entry.key} is {found.type.name} {brief(found.value)}, "
            f"expected {entry.type.name}"
        )
    if entry.type is ValueType.FLOAT32 and not isfinite(found.value):
        raise ModelFileError(f"{path}: {entry.key} is {found.value}, expected a finite number")
    return found.value


def _read_stage(path: Path, metadata: dict[str, MetadataValue], stage: type) -> Any:
    values: dict[str, Any] = {}
    for entry in _KEYS[stage]:
        value = _read_value(path, metadata, entry)
        if value is _REQUIRED:
            value = entry.default(values) if callable(entry.default) else entry.default
        if value is _REQUIRED:
            raise ModelFileError(f"{path}: has no {entry.key}, which every {ARCHITECTURE} file has")
        if entry.field == "captured_layers":
            value = _parse_layers(path, entry.key, value)
        values[entry.field] = value
    return stage(**values)


def _parse_layers(path: Path, key: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ModelFileError(
            f"{path}: {key} is {brief(text)}, expected layer numbers like '4,8,12,-1'"
        ) from None


def read_hparams(path: Path, metadata: dict[str, MetadataValue]) -> HParams:
    """Hyper-parameters from metadata.

    Raises:
        ModelFileError: a key is missing, of a wrong type, or contradicts another.
    """
    tied = metadata.get(_TIED)
    if tied is not None and tied.value is not True:
        raise ModelFileError(f"{path}: {_TIED} is false; only tied embeddings are supported")
    hparams = HParams(
        front_end=_read_stage(path, metadata, FrontEnd),
        encoder=_read_stage(path, metadata, Encoder),
        hypothesis=_read_stage(path, metadata, Hypothesis),
        projector=_read_stage(path, metadata, Projector),
        editor=_read_stage(path, metadata, Editor),
    )
    problem = contradiction(hparams)
    if problem:
        raise ModelFileError(f"{path}: {problem}")
    return hparams
