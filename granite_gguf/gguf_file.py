"""The ``granite_nle`` file: the one module that knows its metadata keys.

Reads a file into hyper-parameters and a checked tensor table, and turns hyper-parameters into
metadata for the writer. Files written elsewhere carry fewer keys: an absent one means the
behaviour of the model's first release, which those files hold.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import isfinite
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

from granite_gguf.errors import ModelFileError, UnsupportedModelError, brief
from granite_gguf.ggml.types import GGMLType
from granite_gguf.gguf_container import (
    Container,
    MetadataValue,
    TensorInfo,
    ValueType,
    open_container,
    to_float32,
)
from granite_gguf.hparams import Editor, Encoder, FrontEnd, HParams, Hypothesis, Projector
from granite_gguf.limits import out_of_range
from granite_gguf.tensors import TensorSpec, expected_tensors

ARCHITECTURE = "granite_nle"

WEIGHT_TYPES = frozenset(
    {
        GGMLType.F32,
        GGMLType.F16,
        GGMLType.BF16,
        GGMLType.Q8_0,
        GGMLType.Q6_K,
        GGMLType.Q5_K,
        GGMLType.Q4_K,
        GGMLType.Q3_K,
        GGMLType.Q2_K,
        GGMLType.Q5_0,
        GGMLType.Q5_1,
        GGMLType.Q4_0,
        GGMLType.Q4_1,
        GGMLType.IQ4_NL,
        GGMLType.IQ4_XS,
    }
)


class Keys:
    """Metadata keys, grouped as the format groups them."""

    class General:
        ARCHITECTURE = "general.architecture"
        NAME = "general.name"
        FILE_TYPE = "general.file_type"
        QUANTIZATION_VERSION = "general.quantization_version"

    class CTC:
        VOCAB_SIZE = "granite_nle.ctc.vocab_size"
        VOCAB = "granite_nle.ctc.vocab"

    class Source:
        LAYOUT = "granite_nle.source.layout"
        REVISION = "granite_nle.source.revision"

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


# Split once: Python's cache of attributes keeps a reference to every string it is asked for.
_POSITIVE: dict[type, list[str]] = {
    stage: names.split()
    for stage, names in (
        (FrontEnd, "sample_rate n_mels n_fft win_length hop_length frame_stack"),
        (Encoder, "n_layers d_model n_heads head_dim conv_dim ff_dim context_size ctc_vocab"),
        (Hypothesis, "bpe_vocab pooling_window"),
        (Projector, "n_layers hidden_size n_heads mlp_ratio block_size downsample_rate"),
        (Editor, "n_layers d_model n_heads n_kv_heads head_dim ff_dim vocab_size rope_theta"),
    )
}
_POSITIVE[Projector] += ["layernorm_eps"]
_POSITIVE[Editor] += ["rms_norm_eps", "embedding_multiplier", "logits_scaling", "max_positions"]


def contradiction(h: HParams) -> str | None:
    """What makes these hyper-parameters impossible to run, or None."""
    f, e, y, p, d = h.front_end, h.encoder, h.hypothesis, h.projector, h.editor
    positive = [
        (f"{type(stage).__name__} {name}", getattr(stage, name))
        for stage in (f, e, y, p, d)
        for name in _POSITIVE[type(stage)]
    ]
    last_id = y.bpe_vocab - 1 - y.id_shift
    checks: list[tuple[bool, str]] = [
        *((value > 0, f"{name} is {value}") for name, value in positive),
        (f.win_length <= f.n_fft, f"the window of {f.win_length} exceeds n_fft {f.n_fft}"),
        (
            e.input_dim == f.n_mels * f.frame_stack,
            f"the encoder reads {e.input_dim} features, the front end makes "
            f"{f.frame_stack} x {f.n_mels}",
        ),
        (e.conv_kernel % 2 == 1, f"the depthwise kernel of {e.conv_kernel} taps is even"),
        (
            e.context_size <= e.max_pos_emb,
            f"attention blocks of {e.context_size} frames exceed the {e.max_pos_emb} positions",
        ),
        (
            1 <= e.self_conditioning_layer <= e.n_layers,
            f"there is no self-conditioning layer {e.self_conditioning_layer} of {e.n_layers}",
        ),
        (
            all(0 <= k <= e.n_layers for k in e.captured_blocks),
            f"captured layers {e.captured_layers} are not all within {e.n_layers} blocks",
        ),
        (
            len(e.captured_layers) == p.num_encoder_layers and e.d_model == p.encoder_dim,
            f"the projector reads {p.num_encoder_layers} layers of {p.encoder_dim}, the encoder "
            f"captures {len(e.captured_layers)} of {e.d_model}",
        ),
        (
            p.block_size % p.downsample_rate == 0 if p.downsample_rate else False,
            f"windows of {p.block_size} do not divide by {p.downsample_rate}",
        ),
        (
            p.hidden_size % p.n_heads == 0 if p.n_heads else False,
            f"projector width {p.hidden_size} does not divide into {p.n_heads} heads",
        ),
        (p.llm_dim == d.d_model, f"projector output {p.llm_dim} is not editor width {d.d_model}"),
        (
            d.n_heads % d.n_kv_heads == 0 if d.n_kv_heads else False,
            f"{d.n_heads} query heads do not divide over {d.n_kv_heads} key heads",
        ),
        (d.head_dim % 2 == 0, f"rotary positions need an even head width, not {d.head_dim}"),
        (
            max(d.eos_token_id, d.bos_token_id, d.pad_token_id) < d.vocab_size,
            f"special tokens lie beyond the vocabulary of {d.vocab_size}",
        ),
        (y.blank_id < y.bpe_vocab, f"blank {y.blank_id} is beyond the {y.bpe_vocab} BPE outputs"),
        (
            last_id < d.vocab_size and (y.id_shift == 0 or y.blank_id < y.id_shift),
            f"{y.bpe_vocab} BPE outputs with blank {y.blank_id}, shifted by {y.id_shift}, do not "
            f"fit a vocabulary of {d.vocab_size}",
        ),
    ]
    return next((problem for holds, problem in checks if not holds), None) or out_of_range(h)


@dataclass(frozen=True)
class ModelFile:
    """A checked ``granite_nle`` file, mapped into memory."""

    container: Container
    hparams: HParams
    specs: dict[str, TensorSpec]

    @property
    def path(self) -> Path:
        return self.container.path

    def info(self, name: str) -> TensorInfo:
        return self.container.tensors[name]

    def text(self, key: str) -> str | None:
        """A string of the metadata, or None."""
        found = self.container.metadata.get(key)
        return found.value if found is not None and found.type is ValueType.STRING else None

    def integers(self, key: str) -> list[int] | None:
        """An integer array of the metadata, or None."""
        found = self.container.metadata.get(key)
        integral = found is not None and found.element_type in (ValueType.INT32, ValueType.UINT32)
        return list(found.value) if found is not None and integral else None

    def strings(self, key: str) -> list[str] | None:
        """A string array of the metadata, or None."""
        found = self.container.metadata.get(key)
        textual = found is not None and found.element_type is ValueType.STRING
        return list(found.value) if found is not None and textual else None

    def read(self, name: str) -> npt.NDArray[np.float32]:
        """A whole tensor decoded to float32, in numpy order.

        Its shape is the format's, whatever dimensions of length 1 the file stores.
        """
        info = self.info(name)
        values = to_float32(self.container.raw(name), info.type, info.shape)
        return values.reshape(tuple(reversed(self.specs[name].shape)))

    def read_rows(self, name: str, rows: npt.NDArray[np.integer]) -> npt.NDArray[np.float32]:
        """Some rows of a matrix decoded to float32; only those are read from the file."""
        info = self.info(name)
        width, count = self.specs[name].shape[-2:]
        raw = self.container.raw(name).reshape(count, -1)[rows]
        return to_float32(raw.reshape(-1), info.type, (width, len(rows)))


def open_model_file(path: str | Path) -> ModelFile:
    """Map and check a file.

    Raises:
        ModelFileError: the file is damaged, incomplete or inconsistent.
        UnsupportedModelError: it holds another architecture.
    """
    path = Path(path)
    container = open_container(path)
    architecture = container.metadata.get(Keys.General.ARCHITECTURE)
    if architecture is None or architecture.value != ARCHITECTURE:
        found = "no architecture" if architecture is None else brief(architecture.value)
        raise UnsupportedModelError(
            f"{path}: holds {found}, expected {ARCHITECTURE!r}: a Granite Speech NAR model, "
            "as `granite-gguf convert` makes it"
        )
    hparams = read_hparams(path, container.metadata)
    layers = max(hparams.encoder.n_layers, hparams.projector.n_layers, hparams.editor.n_layers)
    if layers > len(container.tensors):
        raise ModelFileError(f"{path}: claims {layers} layers in {len(container.tensors)} tensors")
    specs = expected_tensors(hparams)
    _check_tensors(path, container.tensors, specs)
    return ModelFile(container, hparams, specs)


def _check_tensors(
    path: Path, tensors: dict[str, TensorInfo], specs: dict[str, TensorSpec]
) -> None:
    problems: list[str] = []

    def note(names: list[str], what: str) -> None:
        if names:
            shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if names[5:] else "")
            problems.append(f"{what}: {shown}")

    note([name for name in specs if name not in tensors], "tensors are missing")
    note([name for name in tensors if name not in specs], "tensors are not part of the format")
    both = [(tensors[name], spec) for name, spec in specs.items() if name in tensors]
    note(
        [
            f"{info.name} {list(info.shape)} instead of {list(spec.shape)}"
            for info, spec in both
            if not spec.accepts(info.shape)
        ],
        "tensors have another shape than the metadata says",
    )
    note(
        [f"{info.name} {info.type.name}" for info, _ in both if info.type not in WEIGHT_TYPES],
        "tensors have types that cannot be run",
    )
    if problems:
        raise ModelFileError(f"{path}: {'; '.join(problems)}")
