"""The one module that knows the JSON of the three checkpoint layouts.

    config.json, preprocessor_config.json | processor_config.json → CheckpointConfig

``nle`` is the model's first release, ``granite_speech_nar`` the later one on the Hub, ``native``
the port to transformers. They are told apart by their fields; what they mean differently becomes
hyper-parameters, so that nothing after this module asks for the layout.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import Enum
from math import inf
from pathlib import Path
from typing import Any

from granite_gguf.errors import CheckpointError, brief
from granite_gguf.spec.checks import contradiction
from granite_gguf.spec.hparams import Editor, Encoder, FrontEnd, HParams, Hypothesis, Projector

_MAX_NUMBER = 3.4e38


class Layout(Enum):
    """The on-disk forms of a checkpoint."""

    NLE = "nle"
    HUB = "granite_speech_nar"
    NATIVE = "native"


@dataclass(frozen=True)
class CheckpointConfig:
    """What a checkpoint's JSON says.

    Attributes:
        layout: the form it was recognised as.
        hparams: all stages, behaviour included.
        characters: the character head's outputs by id; unmapped ones are empty. Only the first
            release names them.
    """

    layout: Layout
    hparams: HParams
    characters: tuple[str, ...] | None


class _Section:
    """A JSON object whose fields are read by name and type, with errors that name the field."""

    def __init__(self, path: Path, name: str, fields: dict[str, Any]) -> None:
        self._path, self._name, self._fields = path, name, fields

    def _missing(self, field: str, expected: str) -> CheckpointError:
        return CheckpointError(f"{self._path}: has no {self._name}{field}, expected {expected}")

    def _wrong(self, field: str, value: Any, expected: str) -> CheckpointError:
        return CheckpointError(
            f"{self._path}: {self._name}{field} is {brief(value)}, expected {expected}"
        )

    def __contains__(self, field: str) -> bool:
        return self._fields.get(field) is not None

    def section(self, field: str) -> _Section:
        value = self._fields.get(field)
        if value is None:
            raise self._missing(field, "an object")
        if not isinstance(value, dict):
            raise self._wrong(field, value, "an object")
        return _Section(self._path, f"{self._name}{field}.", value)

    def integer(self, field: str, default: int | None = None) -> int:
        value = self._fields.get(field, default)
        if value is None:
            raise self._missing(field, "an integer")
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**31:
            raise self._wrong(field, value, "a non-negative integer")
        return value

    def number(self, field: str) -> float:
        value = self._fields.get(field)
        if value is None:
            raise self._missing(field, "a number")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._wrong(field, value, "a number")
        try:
            number = float(value)
        except OverflowError:
            number = inf
        if not abs(number) <= _MAX_NUMBER:
            raise self._wrong(field, value, "a number that float32 can hold")
        return number

    def boolean(self, field: str, default: bool | None = None) -> bool:
        value = self._fields.get(field, default)
        if value is None:
            raise self._missing(field, "true or false")
        if not isinstance(value, bool):
            raise self._wrong(field, value, "true or false")
        return value

    def integers(self, field: str) -> tuple[int, ...]:
        value = self._fields.get(field)
        if value is None:
            raise self._missing(field, "a list of integers")
        whole = isinstance(value, list) and value
        if not whole or not all(isinstance(k, int) and not isinstance(k, bool) for k in value):
            raise self._wrong(field, value, "a list of integers")
        return tuple(value)

    def mapping(self, field: str) -> dict[str, Any]:
        return self.section(field)._fields

    def text(self, field: str) -> str | None:
        value = self._fields.get(field)
        return value if isinstance(value, str) else None

    def require(self, field: str, expected: Any) -> None:
        """Refuse a checkpoint whose field, where it is given, is not the only supported value."""
        value = self._fields.get(field, expected)
        if value != expected:
            raise self._wrong(field, value, f"{expected!r}: nothing else is supported")


def _read_json(path: Path) -> _Section:
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file; a checkpoint directory holds it") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CheckpointError(f"{path}: is not valid JSON: {error}") from error
    if not isinstance(fields, dict):
        raise CheckpointError(f"{path}: holds no JSON object")
    return _Section(path, "", fields)


def read_config(directory: Path) -> CheckpointConfig:
    """Read a checkpoint's configuration, whatever its layout.

    Raises:
        CheckpointError: a file or a field is missing or wrong, or the model is another one.
    """
    path = directory / "config.json"
    root = _read_json(path)
    layout = _recognise(path, root)
    encoder = _encoder(root, layout)
    hparams = HParams(
        front_end=_front_end(directory, layout),
        encoder=encoder,
        hypothesis=_hypothesis(root, layout),
        projector=_projector(root, layout, encoder),
        editor=_editor(root, layout),
    )
    problem = contradiction(hparams)
    if problem:
        raise CheckpointError(f"{path}: {problem}")
    characters = _characters(path, root, encoder.ctc_vocab) if layout is Layout.NLE else None
    return CheckpointConfig(layout, hparams, characters)


def _recognise(path: Path, root: _Section) -> Layout:
    model_type = root.text("model_type")
    if model_type == "nle":
        return Layout.NLE
    if model_type == "granite_speech_nar" and "encoder_config" in root:
        encoder = root.section("encoder_config")
        if "bpe_output_dim" in encoder:
            return Layout.HUB
        if "vocabulary_size" in encoder or "cat_hidden_layers" in encoder:
            return Layout.NATIVE
    raise CheckpointError(
        f"{path}: model_type is {brief(model_type)}, which is no Granite Speech NAR checkpoint. "
        "Expected model_type 'nle' or 'granite_speech_nar' with an encoder_config"
    )


def _front_end(directory: Path, layout: Layout) -> FrontEnd:
    if layout is Layout.NATIVE:
        fields = _read_json(directory / "processor_config.json").section("feature_extractor")
        n_mels = fields.integer("feature_size")
    else:
        fields = _read_json(directory / "preprocessor_config.json")
        n_mels = fields.integer("n_mels")
    return FrontEnd(
        sample_rate=fields.integer("sampling_rate", FrontEnd.sample_rate),
        n_mels=n_mels,
        n_fft=fields.integer("n_fft", FrontEnd.n_fft),
        win_length=fields.integer("win_length", FrontEnd.win_length),
        hop_length=fields.integer("hop_length", FrontEnd.hop_length),
        pad_last_frame=layout is Layout.NATIVE,
    )


def _encoder(root: _Section, layout: Layout) -> Encoder:
    fields = root.section("encoder_config")
    d_model = fields.integer("hidden_dim")
    native = layout is Layout.NATIVE
    return Encoder(
        n_layers=fields.integer("num_layers"),
        d_model=d_model,
        n_heads=fields.integer("num_heads"),
        head_dim=fields.integer("dim_head"),
        input_dim=fields.integer("input_dim"),
        conv_kernel=fields.integer("conv_kernel_size"),
        conv_dim=d_model * fields.integer("conv_expansion_factor"),
        ff_dim=d_model * fields.integer("feedforward_mult"),
        context_size=fields.integer("context_size"),
        max_pos_emb=fields.integer("max_pos_emb"),
        ctc_vocab=fields.integer("output_dim"),
        self_conditioning_layer=fields.integer("self_conditioning_layer"),
        captured_layers=(
            (*fields.integers("cat_hidden_layers"), -1)  # the final state is always appended
            if native
            else root.integers("encoder_layer_indices")
        ),
        capture_before_feedback=native,
    )


def _hypothesis(root: _Section, layout: Layout) -> Hypothesis:
    fields = root.section("encoder_config")
    if layout is Layout.NLE:
        return Hypothesis(
            bpe_vocab=fields.integer("bpe_output_dim"),
            pooling_window=fields.integer("bpe_pooling_window"),
        )
    native = layout is Layout.NATIVE
    blank = fields if "blank_token_id" in fields else root
    return Hypothesis(
        bpe_vocab=fields.integer("vocabulary_size" if native else "bpe_output_dim"),
        pooling_window=fields.integer("pooling_window" if native else "bpe_pooling_window"),
        blank_id=blank.integer("blank_token_id"),
        id_shift=0,
        retokenize=False,
    )


def _projector(root: _Section, layout: Layout, encoder: Encoder) -> Projector:
    fields = root.section("projector_config")
    fields.require("hidden_act", "silu")
    hidden = fields.integer("hidden_size")
    if layout is not Layout.NATIVE:
        return Projector(
            n_layers=fields.integer("num_layers"),
            hidden_size=hidden,
            n_heads=fields.integer("num_heads"),
            mlp_ratio=fields.integer("mlp_ratio"),
            num_encoder_layers=fields.integer("num_encoder_layers"),
            encoder_dim=fields.integer("encoder_dim"),
            llm_dim=fields.integer("llm_dim"),
            block_size=fields.integer("block_size"),
            downsample_rate=fields.integer("downsample_rate"),
            layernorm_eps=fields.number("layernorm_eps"),
            attn_bias=fields.boolean("attn_bias"),
            mlp_bias=fields.boolean("mlp_bias"),
            scale_embeddings=root.boolean("scale_projected_embeddings"),
        )
    fields.require("num_key_value_heads", fields.integer("num_attention_heads"))
    inner = fields.integer("intermediate_size")
    if not hidden or inner % hidden:
        raise CheckpointError(
            f"projector_config.intermediate_size is {inner}, expected a multiple of {hidden}"
        )
    return Projector(
        n_layers=fields.integer("num_hidden_layers"),
        hidden_size=hidden,
        n_heads=fields.integer("num_attention_heads"),
        mlp_ratio=inner // hidden,
        num_encoder_layers=len(encoder.captured_layers),
        encoder_dim=encoder.d_model,
        llm_dim=hidden,
        block_size=fields.integer("window_size"),
        downsample_rate=fields.integer("downsample_rate"),
        layernorm_eps=fields.number("layer_norm_eps"),
        attn_bias=fields.boolean("attention_bias"),
        mlp_bias=fields.boolean("mlp_bias", True),
        scale_embeddings=True,
    )


def _editor(root: _Section, layout: Layout) -> Editor:
    nle = layout is Layout.NLE
    fields = root.section("llm_config" if nle else "text_config")
    fields.require("hidden_act", "silu")
    fields.require("attention_bias", False)
    fields.require("mlp_bias", False)
    fields.require("tie_word_embeddings", True)
    d_model, n_heads = fields.integer("hidden_size"), fields.integer("num_attention_heads")
    rope = fields if nle else fields.section("rope_parameters")
    rope.require("rope_type", "default")
    fields.require("rope_scaling", None)
    eos = fields.integer("eos_token_id")
    return Editor(
        n_layers=fields.integer("num_hidden_layers"),
        d_model=d_model,
        n_heads=n_heads,
        n_kv_heads=fields.integer("num_key_value_heads"),
        head_dim=fields.integer("head_dim", d_model // n_heads if n_heads else 0),
        ff_dim=fields.integer("intermediate_size"),
        vocab_size=fields.integer("vocab_size"),
        rope_theta=rope.number("rope_theta"),
        rms_norm_eps=fields.number("rms_norm_eps"),
        embedding_multiplier=fields.number("embedding_multiplier"),
        attention_multiplier=fields.number("attention_multiplier"),
        residual_multiplier=fields.number("residual_multiplier"),
        logits_scaling=fields.number("logits_scaling"),
        apply_logits_scaling=not nle,
        eos_token_id=eos,
        bos_token_id=fields.integer("bos_token_id", eos),
        pad_token_id=fields.integer("pad_token_id"),
        min_edit_length=_min_edit_length(root, layout),
        max_positions=fields.integer("max_position_embeddings", Editor.max_positions),
    )


def _min_edit_length(root: _Section, layout: Layout) -> int:
    if layout is Layout.HUB:
        return root.integer("min_edit_sequence_length")
    return 8 if layout is Layout.NLE else 0


def _characters(path: Path, root: _Section, size: int) -> tuple[str, ...]:
    """The character head's outputs by id. A newline cannot be stored and counts as unmapped."""
    characters = [""] * size
    if "ctc_tokenizer_config" not in root:
        return tuple(characters)
    for character, index in root.section("ctc_tokenizer_config").mapping("char2idx").items():
        if not isinstance(index, int) or not 0 <= index < size:
            raise CheckpointError(
                f"{path}: ctc_tokenizer_config.char2idx maps {brief(character)} to {brief(index)}, "
                f"expected an id below {size}"
            )
        characters[index] = "" if "\n" in character else character
    return tuple(characters)
