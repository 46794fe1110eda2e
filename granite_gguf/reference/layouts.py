"""The JSON files of a checkpoint directory, in the three layouts, as a `ModelConfig`.

    config.json + preprocessor_config.json | processor_config.json -> read_config() -> ModelConfig

`nle` is the first release, `granite_speech_nar` the remote code on the hub, `native` the port to
transformers. No other module knows their field names.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from granite_gguf.reference.config import (
    CheckpointError,
    EditorConfig,
    EncoderConfig,
    FrontEndConfig,
    Layout,
    ModelConfig,
    ProjectorConfig,
    Semantics,
)
from granite_gguf.reference.sections import Section, check_captured, conformer, granite, read_json


def read_config(directory: str | Path) -> ModelConfig:
    """Hyper-parameters of the checkpoint in `directory`, whatever its layout."""
    directory = Path(directory)
    root = read_json(directory / "config.json")
    layout = detect_layout(root)
    editor = _editor(root.section("llm_config" if layout == "nle" else "text_config"), layout)
    encoder = _encoder(root, layout)
    config = ModelConfig(
        front_end=_front_end(directory, layout),
        encoder=encoder,
        projector=_projector(root.section("projector_config"), encoder, layout),
        editor=editor,
        semantics=_semantics(root, layout),
    )
    _check(config, directory)
    return config


def detect_layout(root: Mapping[str, Any]) -> Layout:
    """Tell the three layouts apart by `model_type` and the encoder's field names."""
    model_type = root.get("model_type")
    if model_type == "nle":
        return "nle"
    encoder = root.get("encoder_config") or {}
    if model_type == "granite_speech_nar":
        if "bpe_output_dim" in encoder:
            return "granite_speech_nar"
        if "vocabulary_size" in encoder or "cat_hidden_layers" in encoder:
            return "native"
    raise CheckpointError(
        f"config.json: model_type {model_type!r} with encoder fields {sorted(encoder)} is none of "
        "the layouts nle, granite_speech_nar and native"
    )


def _front_end(directory: Path, layout: Layout) -> FrontEndConfig:
    if layout == "native":
        fields = read_json(directory / "processor_config.json").section("feature_extractor")
    else:
        fields = read_json(directory / "preprocessor_config.json")
    return FrontEndConfig(
        sample_rate=fields.get("sampling_rate", 16000),
        n_fft=fields.get("n_fft", 512),
        win_length=fields.get("win_length", 400),
        hop_length=fields.get("hop_length", 160),
        n_mels=fields.need("feature_size" if layout == "native" else "n_mels"),
        keep_all_frames=layout == "native",
    )


def _encoder(root: Section, layout: Layout) -> EncoderConfig:
    native = layout == "native"
    fields = root.section("encoder_config")
    blocks = conformer(fields)
    if native:
        captured = [*fields.need("cat_hidden_layers"), -1]
    else:
        captured = root.need("encoder_layer_indices")
    check_captured(root, captured, blocks.n_layers)
    return EncoderConfig(
        **vars(blocks),
        bpe_vocab=fields.need("vocabulary_size" if native else "bpe_output_dim"),
        pooling_window=fields.need("pooling_window" if native else "bpe_pooling_window"),
        captured=tuple(index % (blocks.n_layers + 1) for index in captured),
        capture_before_feedback=native,
    )


def _projector(fields: Section, encoder: EncoderConfig, layout: Layout) -> ProjectorConfig:
    hidden = fields.need("hidden_size")
    if layout != "native":
        return ProjectorConfig(
            encoder_dim=fields.need("encoder_dim"),
            n_encoder_layers=fields.need("num_encoder_layers"),
            hidden=hidden,
            llm_dim=fields.need("llm_dim"),
            n_layers=fields.need("num_layers"),
            n_heads=fields.need("num_heads"),
            mlp_dim=hidden * fields.need("mlp_ratio"),
            window=fields.need("block_size"),
            downsample=fields.need("downsample_rate"),
            norm_eps=fields.need("layernorm_eps"),
            attention_bias=fields.need("attn_bias"),
            mlp_bias=fields.need("mlp_bias"),
        )
    n_heads = fields.need("num_attention_heads")
    if fields.get("num_key_value_heads") not in (None, n_heads):
        raise CheckpointError(f"{fields.name}: num_key_value_heads is not num_attention_heads")
    if fields.get("hidden_act", "silu") != "silu":
        raise CheckpointError(f"{fields.name}: hidden_act is {fields['hidden_act']!r}, not 'silu'")
    return ProjectorConfig(
        encoder_dim=encoder.d_model,
        n_encoder_layers=len(encoder.captured),
        hidden=hidden,
        llm_dim=hidden,
        n_layers=fields.need("num_hidden_layers"),
        n_heads=n_heads,
        mlp_dim=fields.need("intermediate_size"),
        window=fields.need("window_size"),
        downsample=fields.need("downsample_rate"),
        norm_eps=fields.need("layer_norm_eps"),
        affine_norms=False,
        attention_bias=fields.need("attention_bias"),
    )


def _editor(fields: Section, layout: Layout) -> EditorConfig:
    rope = fields if layout == "nle" else fields.section("rope_parameters")
    return EditorConfig(**vars(granite(fields, rope)))


def _semantics(root: Section, layout: Layout) -> Semantics:
    if layout == "nle":
        return Semantics(
            layout=layout,
            bpe_blank_id=0,
            bpe_id_shift=1,
            retokenize=True,
            slot_id=root.section("llm_config").need("eos_token_id"),
            min_edit_length=8,
            scale_projected_embeddings=root.need("scale_projected_embeddings"),
            logits_divisor=1.0,
        )
    text = root.section("text_config")
    blank = root.need("blank_token_id")
    if blank != text.need("eos_token_id"):
        raise CheckpointError(
            f"{root.name}: blank_token_id is {blank} but eos_token_id is {text['eos_token_id']}; "
            "the slots are filled with the one and the transcript drops the other"
        )
    hub = layout == "granite_speech_nar"
    return Semantics(
        layout=layout,
        bpe_blank_id=blank,
        bpe_id_shift=0,
        retokenize=False,
        slot_id=blank,
        min_edit_length=root.need("min_edit_sequence_length") if hub else 0,
        scale_projected_embeddings=root.need("scale_projected_embeddings") if hub else True,
        logits_divisor=float(text.need("logits_scaling")),
    )


def _check(config: ModelConfig, directory: Path) -> None:
    """Relations between the stages that tensor shapes alone would not explain."""
    encoder, projector, editor = config.encoder, config.projector, config.editor
    stacked = config.front_end.n_mels * config.front_end.frame_stack
    tokens = encoder.bpe_vocab - config.semantics.bpe_id_shift
    for what, found, expected in (
        ("encoder input_dim", encoder.input_dim, stacked),
        ("BPE head without its shift", tokens, editor.vocab_size),
        ("projector encoder_dim", projector.encoder_dim, encoder.d_model),
        ("projector num_encoder_layers", projector.n_encoder_layers, len(encoder.captured)),
        ("projector output width", projector.llm_dim, editor.d_model),
        ("frames of a window beyond whole tokens", projector.window % projector.downsample, 0),
        ("query heads beyond whole groups", editor.n_heads % editor.n_kv_heads, 0),
    ):
        if found != expected:
            raise CheckpointError(
                f"{directory / 'config.json'}: {what}: {found}, expected {expected}"
            )
    if encoder.context_size > encoder.max_pos_emb:
        raise CheckpointError(f"{directory / 'config.json'}: context_size exceeds max_pos_emb")
    if not 1 <= encoder.self_conditioning_layer <= encoder.n_layers:
        raise CheckpointError(f"{directory / 'config.json'}: no such self_conditioning_layer")
