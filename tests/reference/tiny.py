"""A model that runs in milliseconds, a tokenizer and checkpoint directories for it.

Its dimensions are its own, unlike those of any model: a head is no share of the width, and hardly
two sizes are equal, so that one in the place of another shows. Its configurations are written here
a second time, by hand, so that the generator in ``tests/support`` proves nothing by itself.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from granite_gguf.reference import (
    EditorConfig,
    EncoderConfig,
    FrontEndConfig,
    GraniteSpeechNar,
    Layout,
    ModelConfig,
    ProjectorConfig,
    Semantics,
    to_checkpoint,
)

LAYOUTS: tuple[Layout, ...] = ("nle", "granite_speech_nar", "native")
EOS, PAD, KEPT = 256, 257, 258  # end of text, padding, an added token that is not special
VOCAB = 262

ENCODER = EncoderConfig(
    n_layers=4,
    d_model=16,
    n_heads=2,
    head_dim=8,
    input_dim=160,
    ff_dim=64,
    conv_inner=32,
    conv_kernel=15,
    context_size=20,
    max_pos_emb=24,
    char_vocab=12,
    bpe_vocab=VOCAB,
    pooling_window=4,
    self_conditioning_layer=2,
    captured=(1, 2, 3, 4),
)
PROJECTOR = ProjectorConfig(
    encoder_dim=16,
    n_encoder_layers=4,
    hidden=24,
    llm_dim=24,
    n_layers=2,
    n_heads=3,
    mlp_dim=48,
    window=15,
    downsample=5,
    norm_eps=1e-6,
)
EDITOR = EditorConfig(
    n_layers=2,
    d_model=24,
    n_heads=4,
    n_kv_heads=2,
    head_dim=8,
    ff_dim=40,
    vocab_size=VOCAB,
    rope_theta=10000.0,
    norm_eps=1e-5,
    embedding_multiplier=12.0,
    attention_multiplier=1 / 128,
    residual_multiplier=0.22,
)


def config(layout: Layout) -> ModelConfig:
    """The tiny model with the behaviour of `layout`."""
    native, nle = layout == "native", layout == "nle"
    return ModelConfig(
        front_end=FrontEndConfig(keep_all_frames=native),
        encoder=replace(ENCODER, bpe_vocab=VOCAB + nle, capture_before_feedback=native),
        projector=replace(PROJECTOR, affine_norms=not native),
        editor=EDITOR,
        semantics=Semantics(
            layout=layout,
            bpe_blank_id=0 if nle else EOS,
            bpe_id_shift=int(nle),
            retokenize=nle,
            slot_id=EOS,
            min_edit_length=0 if native else 8,
            scale_projected_embeddings=True,
            logits_divisor=1.0 if nle else 8.0,
        ),
    )


def randomize(module: torch.nn.Module, seed: int = 0) -> None:
    """Parameters that keep signals alive, and running statistics that are far from 0 and 1."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in module.state_dict().items():
        if not tensor.is_floating_point():
            continue
        noise = torch.randn(tensor.shape, generator=generator)
        if name.endswith("running_var"):
            tensor.copy_(0.3 + noise.square())
        elif name.endswith("weight") and tensor.ndim == 1:
            tensor.copy_(1.0 + 0.3 * noise)
        elif name.endswith("bias") or tensor.ndim == 1:
            tensor.copy_(0.2 * noise)
        else:
            tensor.copy_(noise * tensor[0].numel() ** -0.5)


def model(layout: Layout, seed: int = 0) -> GraniteSpeechNar:
    """The tiny model in evaluation mode."""
    made = GraniteSpeechNar(config(layout))
    randomize(made, seed)
    return made.eval()


def tokenizer() -> Tokenizer:
    """Byte-level, one token per byte: token id = rank in the byte alphabet."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(
        models.BPE(vocab={byte: rank for rank, byte in enumerate(alphabet)}, merges=[])
    )
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken("<|end_of_text|>", special=True, normalized=False)])
    made.add_special_tokens([AddedToken("<|pad|>", special=True, normalized=False)])
    made.add_tokens([AddedToken("<kept>", special=False, normalized=False)])
    return made


def config_json(layout: Layout) -> dict[str, Any]:
    """`config.json` of the tiny model."""
    encoder, projector, editor = ENCODER, PROJECTOR, EDITOR
    native, nle = layout == "native", layout == "nle"
    encoder_fields: dict[str, Any] = {
        "num_layers": encoder.n_layers,
        "hidden_dim": encoder.d_model,
        "num_heads": encoder.n_heads,
        "dim_head": encoder.head_dim,
        "input_dim": encoder.input_dim,
        "feedforward_mult": 4,
        "conv_expansion_factor": 2,
        "conv_kernel_size": encoder.conv_kernel,
        "context_size": encoder.context_size,
        "max_pos_emb": encoder.max_pos_emb,
        "output_dim": encoder.char_vocab,
        "self_conditioning_layer": encoder.self_conditioning_layer,
    }
    if native:
        encoder_fields |= {
            "vocabulary_size": VOCAB,
            "pooling_window": encoder.pooling_window,
            "cat_hidden_layers": [1, 2, 3],
        }
        projector_fields: dict[str, Any] = {
            "hidden_size": projector.hidden,
            "intermediate_size": projector.mlp_dim,
            "num_hidden_layers": projector.n_layers,
            "num_attention_heads": projector.n_heads,
            "num_key_value_heads": projector.n_heads,
            "hidden_act": "silu",
            "window_size": projector.window,
            "downsample_rate": projector.downsample,
            "attention_bias": True,
            "layer_norm_eps": projector.norm_eps,
        }
    else:
        encoder_fields |= {
            "bpe_output_dim": VOCAB + nle,
            "bpe_pooling_window": encoder.pooling_window,
        }
        projector_fields = {
            "encoder_dim": projector.encoder_dim,
            "num_encoder_layers": projector.n_encoder_layers,
            "hidden_size": projector.hidden,
            "llm_dim": projector.llm_dim,
            "num_layers": projector.n_layers,
            "num_heads": projector.n_heads,
            "mlp_ratio": 2,
            "block_size": projector.window,
            "downsample_rate": projector.downsample,
            "layernorm_eps": projector.norm_eps,
            "attn_bias": True,
            "mlp_bias": True,
        }
    text_fields: dict[str, Any] = {
        "num_hidden_layers": editor.n_layers,
        "hidden_size": editor.d_model,
        "num_attention_heads": editor.n_heads,
        "num_key_value_heads": editor.n_kv_heads,
        "head_dim": editor.head_dim,
        "intermediate_size": editor.ff_dim,
        "vocab_size": editor.vocab_size,
        "rms_norm_eps": editor.norm_eps,
        "embedding_multiplier": 12,
        "attention_multiplier": editor.attention_multiplier,
        "residual_multiplier": editor.residual_multiplier,
        "logits_scaling": 8,
        "eos_token_id": EOS,
    }
    text_fields |= {"rope_theta": 10000} if nle else {"rope_parameters": {"rope_theta": 10000}}
    root: dict[str, Any] = {
        "model_type": "nle" if nle else "granite_speech_nar",
        "encoder_config": encoder_fields,
        "projector_config": projector_fields,
        "llm_config" if nle else "text_config": text_fields,
    }
    if not native:
        root |= {"encoder_layer_indices": [1, 2, 3, -1], "scale_projected_embeddings": True}
    if not nle:
        root["blank_token_id"] = EOS
    if layout == "granite_speech_nar":
        root["min_edit_sequence_length"] = 8
    return root


def write_checkpoint(directory: Path, layout: Layout, seed: int = 0) -> GraniteSpeechNar:
    """A checkpoint directory of the tiny model, which is returned."""
    made = model(layout, seed)
    native = layout == "native"
    write_json(directory / "config.json", config_json(layout))
    if native:
        side: dict[str, Any] = {"feature_extractor": {"feature_size": 80}}
    else:
        side = {"n_mels": 80}
    write_json(
        directory / ("processor_config.json" if native else "preprocessor_config.json"), side
    )
    save_file(to_checkpoint(made), directory / "model.safetensors")
    tokenizer().save(str(directory / "tokenizer.json"))
    return made


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")
