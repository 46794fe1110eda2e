"""The JSON files of a checkpoint of the autoregressive model as a `SpeechConfig`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from granite_gguf.reference.config import CheckpointError, FrontEndConfig
from granite_gguf.reference.sections import Section, check_captured, conformer, granite, read_json
from granite_gguf.reference.speech.config import (
    LanguageConfig,
    QFormerConfig,
    SpeechConfig,
    SpeechLayout,
)

MODEL_TYPES = ("granite_speech", "granite_speech_plus")


def read_config(directory: Path) -> SpeechConfig:
    """Hyper-parameters of the checkpoint in `directory`."""
    root = read_json(directory / "config.json")
    layout = _layout(root)
    encoder = root.section("encoder_config")
    blocks = conformer(encoder)
    beside = tuple(sorted(encoder.get("cat_hidden_layers") or ()))
    check_captured(root, beside, blocks.n_layers)
    config = SpeechConfig(
        layout=layout,
        front_end=_front_end(directory),
        encoder=blocks,
        beside=beside,
        projector=_projector(root),
        language=_language(directory, root),
    )
    _check(config, root.name)
    return config


def _layout(root: Section) -> SpeechLayout:
    model_type = root.get("model_type")
    if model_type not in MODEL_TYPES:
        raise CheckpointError(
            f"{root.name}: model_type is {model_type!r}, expected {' or '.join(MODEL_TYPES)}"
        )
    if root.section("projector_config").get("model_type") == "granite_speech_qformer":
        raise CheckpointError(
            f"{root.name}: is of granite-speech-3.2, as the code in its repository wrote it; the "
            "reference reads what transformers does, 3.3 and later: compare its GGUF files among "
            "themselves"
        )
    if model_type == "granite_speech_plus" or root.section("encoder_config").get(
        "cat_hidden_layers"
    ):
        return "plus"
    return "lora" if root.get("has_lora_adapter") else "base"


def _front_end(directory: Path) -> FrontEndConfig:
    """From whichever file there is; the defaults are those of the released models."""
    fields: Mapping[str, Any] = {}
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (directory / name).is_file():
            found = read_json(directory / name)
            fields = found.get("audio_processor") or found
            fields = {**fields, **(fields.get("melspec_kwargs") or {})}
            break
    return FrontEndConfig(
        sample_rate=fields.get("sampling_rate", 16000),
        n_fft=fields.get("n_fft", 512),
        win_length=fields.get("win_length", 400),
        hop_length=fields.get("hop_length", 160),
        n_mels=fields.get("n_mels", 80),
        cut_after_maximum=True,
    )


def _projector(root: Section) -> QFormerConfig:
    fields = root.section("projector_config")
    for name, only in (("hidden_act", "gelu"), ("cross_attention_frequency", 1)):
        if fields.get(name, only) != only:
            raise CheckpointError(f"{fields.name}: {name} is {fields[name]!r}, not {only!r}")
    return QFormerConfig(
        encoder_width=fields.need("encoder_hidden_size"),
        hidden=fields.need("hidden_size"),
        llm_dim=root.section("text_config").need("hidden_size"),
        n_layers=fields.need("num_hidden_layers"),
        n_heads=fields.need("num_attention_heads"),
        ff_dim=fields.need("intermediate_size"),
        window=root.need("window_size"),
        downsample=root.need("downsample_rate"),
        norm_eps=fields.need("layer_norm_eps"),
    )


def _language(directory: Path, root: Section) -> LanguageConfig:
    fields = root.section("text_config")
    flat = fields.get("rope_theta") is not None
    layers = granite(fields, fields if flat else fields.section("rope_parameters"))
    generation = directory / "generation_config.json"
    eos = read_json(generation).get("eos_token_id") if generation.is_file() else None
    return LanguageConfig(
        **vars(layers),
        logits_scaling=float(fields.need("logits_scaling")),
        tied=bool(fields.get("tie_word_embeddings", root.get("tie_word_embeddings", False))),
        eos=fields.need("eos_token_id") if eos is None else eos,
        audio_token=root.need("audio_token_index"),
    )


def _check(config: SpeechConfig, name: str) -> None:
    """Relations between the stages that tensor shapes alone would not explain."""
    front_end, encoder, projector = config.front_end, config.encoder, config.projector
    for what, found, expected in (
        ("encoder input_dim", encoder.input_dim, front_end.n_mels * front_end.frame_stack),
        (
            "what the projector reads of a frame",
            projector.encoder_width,
            encoder.d_model * (1 + len(config.beside)),
        ),
        ("frames of a window beyond whole queries", projector.window % projector.downsample, 0),
    ):
        if found != expected:
            raise CheckpointError(f"{name}: {what}: {found}, expected {expected}")
