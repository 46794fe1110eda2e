"""The one module that knows the metadata keys of ``granite_speech_nar``.

Turns them into hyper-parameters. Like the tool that writes such files, it takes the keys that came
later for what they meant before, where they are absent.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any

from granite_gguf.errors import ModelFileError, brief
from granite_gguf.spec.hparams import Editor, Encoder, FrontEnd, HParams, Hypothesis, Projector
from granite_gguf.storage.container import Container, MetadataValue, ValueType

ARCHITECTURE = "granite_speech_nar"
OWN_PREFIX = "stt."

CTC_CHARACTERS = "stt.granite_nar.ctc_chars"
VARIANT = "stt.variant"
TOKENIZER_MODEL = "tokenizer.ggml.model"
TOKENIZER_PRE = "tokenizer.ggml.pre"

_FRONT_END = "stt.frontend."
_ROOT = "stt.granite_nar."
_ENCODER, _PROJECTOR, _TEXT = _ROOT + "encoder.", _ROOT + "projector.", _ROOT + "text."

# Values of which the model has one only: key, value, and whether the key may be absent.
_ONLY: tuple[tuple[str, str | bool, bool], ...] = (
    (_FRONT_END + "type", "mel", False),
    (_FRONT_END + "window", "hann_periodic", False),
    (_FRONT_END + "normalize", "per_utterance", False),
    (_FRONT_END + "pad_mode", "reflect", True),
    (_FRONT_END + "mel_norm", "htk", True),
    (_TEXT + "hidden_act", "silu", False),
    (_TEXT + "tie_word_embeddings", True, True),
    (TOKENIZER_MODEL, "gpt2", False),
    (TOKENIZER_PRE, "granite", False),  # the split that llama.cpp calls dbrx
)

_INTEGERS = {
    *(ValueType.UINT8, ValueType.INT8, ValueType.UINT16, ValueType.INT16),
    *(ValueType.UINT32, ValueType.INT32, ValueType.UINT64, ValueType.INT64),
}
_REQUIRED: Any = object()


class _Values:
    """Metadata read by key and type, with errors that name the key."""

    def __init__(self, path: Path, metadata: Mapping[str, MetadataValue]) -> None:
        self._path, self._metadata = path, metadata

    def _wrong(self, key: str, value: Any, expected: str) -> ModelFileError:
        return ModelFileError(f"{self._path}: {key} is {brief(value)}, expected {expected}")

    def _find(self, key: str, default: Any) -> MetadataValue | None:
        found = self._metadata.get(key)
        if found is None and default is _REQUIRED:
            raise ModelFileError(f"{self._path}: has no {key}, which every {ARCHITECTURE} file has")
        return found

    def integer(self, key: str, default: int = _REQUIRED) -> int:
        found = self._find(key, default)
        if found is None:
            return default
        if found.type not in _INTEGERS or found.value < 0:
            raise self._wrong(key, found.value, "a non-negative integer")
        return int(found.value)

    def number(self, key: str) -> float:
        found = self._find(key, _REQUIRED)
        assert found is not None
        if found.type is not ValueType.FLOAT32 or not isfinite(found.value):
            raise self._wrong(key, found.value, "a finite float32")
        return float(found.value)

    def boolean(self, key: str, default: bool) -> bool:
        found = self._find(key, default)
        if found is None:
            return default
        if found.type is not ValueType.BOOL:
            raise self._wrong(key, found.value, "true or false")
        return bool(found.value)

    def integers(self, key: str) -> tuple[int, ...]:
        found = self._find(key, _REQUIRED)
        assert found is not None
        if found.type is not ValueType.ARRAY or found.element_type not in _INTEGERS:
            raise self._wrong(key, found.value, "an array of integers")
        return tuple(found.value)

    def require(self, key: str, expected: str | bool, *, optional: bool) -> None:
        """Refuse a file whose value is not the only one that is supported."""
        found = self._find(key, expected if optional else _REQUIRED)
        # 1 is not True: both the type and the value have to be the expected ones.
        if found is not None and (
            type(found.value) is not type(expected) or found.value != expected
        ):
            raise self._wrong(key, found.value, f"{expected!r}: nothing else is supported")


def read_hparams(stored: Container) -> HParams:
    """Hyper-parameters of a ``granite_speech_nar`` file.

    Raises:
        ModelFileError: a key is missing, of a wrong type, or of a value that is not supported.
    """
    values = _Values(stored.path, stored.metadata)
    for key, expected, optional in _ONLY:
        values.require(key, expected, optional=optional)
    return HParams(
        front_end=_front_end(values),
        encoder=_encoder(values),
        hypothesis=_hypothesis(values),
        projector=_projector(values),
        editor=_editor(values),
    )


def _front_end(values: _Values) -> FrontEnd:
    return FrontEnd(
        sample_rate=values.integer(_FRONT_END + "sample_rate"),
        n_mels=values.integer(_FRONT_END + "num_mels"),
        n_fft=values.integer(_FRONT_END + "n_fft"),
        win_length=values.integer(_FRONT_END + "win_length"),
        hop_length=values.integer(_FRONT_END + "hop_length"),
    )


def _encoder(values: _Values) -> Encoder:
    d_model = values.integer(_ENCODER + "hidden")
    return Encoder(
        n_layers=values.integer(_ENCODER + "n_layers"),
        d_model=d_model,
        n_heads=values.integer(_ENCODER + "n_heads"),
        head_dim=values.integer(_ENCODER + "head_dim"),
        input_dim=values.integer(_ENCODER + "input_dim"),
        conv_kernel=values.integer(_ENCODER + "conv_kernel_size"),
        conv_dim=d_model * values.integer(_ENCODER + "conv_expansion"),
        ff_dim=d_model * values.integer(_ENCODER + "feedforward_mult"),
        context_size=values.integer(_ENCODER + "context_size"),
        max_pos_emb=values.integer(_ENCODER + "max_pos_emb"),
        ctc_vocab=values.integer(_ENCODER + "output_dim"),
        self_conditioning_layer=values.integer(_ENCODER + "self_cond_layer"),
        captured_layers=values.integers(_ENCODER + "layer_indices"),
    )


def _first_release(values: _Values) -> bool:
    """Whether the BPE head's blank is its first output, as only the first release has it."""
    return values.integer(_ENCODER + "bpe_blank_id", 0) == 0


def _hypothesis(values: _Values) -> Hypothesis:
    first = _first_release(values)
    return Hypothesis(
        bpe_vocab=values.integer(_ENCODER + "bpe_output_dim"),
        pooling_window=values.integer(_ENCODER + "bpe_pool_window"),
        blank_id=values.integer(_ENCODER + "bpe_blank_id", 0),
        id_shift=1 if first else 0,
        retokenize=first,
    )


def _projector(values: _Values) -> Projector:
    return Projector(
        n_layers=values.integer(_PROJECTOR + "n_layers"),
        hidden_size=values.integer(_PROJECTOR + "hidden"),
        n_heads=values.integer(_PROJECTOR + "n_heads"),
        mlp_ratio=values.integer(_PROJECTOR + "mlp_ratio"),
        num_encoder_layers=values.integer(_PROJECTOR + "num_encoder_layers"),
        encoder_dim=values.integer(_PROJECTOR + "encoder_dim"),
        llm_dim=values.integer(_PROJECTOR + "llm_dim"),
        block_size=values.integer(_PROJECTOR + "block_size"),
        downsample_rate=values.integer(_PROJECTOR + "downsample_rate"),
        layernorm_eps=values.number(_PROJECTOR + "layernorm_eps"),
        attn_bias=values.boolean(_PROJECTOR + "attn_bias", True),
        mlp_bias=values.boolean(_PROJECTOR + "mlp_bias", True),
        scale_embeddings=values.boolean(_ROOT + "scale_projected_embeddings", True),
    )


def _editor(values: _Values) -> Editor:
    return Editor(
        n_layers=values.integer(_TEXT + "n_layers"),
        d_model=values.integer(_TEXT + "hidden"),
        n_heads=values.integer(_TEXT + "n_heads"),
        n_kv_heads=values.integer(_TEXT + "n_kv_heads"),
        head_dim=values.integer(_TEXT + "head_dim"),
        ff_dim=values.integer(_TEXT + "intermediate"),
        vocab_size=values.integer(_TEXT + "vocab_size"),
        rope_theta=values.number(_TEXT + "rope_theta"),
        rms_norm_eps=values.number(_TEXT + "rms_norm_eps"),
        embedding_multiplier=values.number(_TEXT + "embedding_multiplier"),
        attention_multiplier=values.number(_TEXT + "attention_multiplier"),
        residual_multiplier=values.number(_TEXT + "residual_multiplier"),
        logits_scaling=values.number(_TEXT + "logits_scaling"),
        apply_logits_scaling=not _first_release(values),
        eos_token_id=values.integer(_TEXT + "eos_id"),
        bos_token_id=values.integer(_TEXT + "bos_id"),
        pad_token_id=values.integer(_TEXT + "pad_id"),
        max_positions=values.integer(_TEXT + "max_position_embeddings"),
    )
