"""The JSON files beside the weights, with the field names each layout uses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.checkpoint.sizes import EncoderSize, ModelSize
from tests.support.checkpoint.tokenizer import MODEL_MAX_LENGTH

Json = dict[str, Any]

MEL_BANDS = 80
MIN_EDIT_LENGTH = 8

DTYPE_NAMES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}


def write_configs(directory: Path, layout: str, size: ModelSize, dtype: str) -> None:
    """Write config.json and the front end's configuration."""
    _write(directory / "config.json", _CONFIGS[layout](size, DTYPE_NAMES[dtype]))
    name = "processor_config.json" if layout == "native" else "preprocessor_config.json"
    _write(directory / name, _FRONT_ENDS[layout]())


def _nle(size: ModelSize, dtype: str) -> Json:
    bpe_head = {
        "bpe_output_dim": size.vocabulary.total + 1,
        "bpe_pooling_window": size.encoder.pooling_window,
    }
    return {
        "architectures": ["NLENARDecoder"],
        "auto_map": {
            "AutoConfig": "configuration_nle.NLEConfig",
            "AutoModel": "modeling_nle.NLENARDecoder",
        },
        "ctc_tokenizer_config": {"char2idx": char2idx(size.encoder.characters)},
        "encoder_config": _encoder(size.encoder, "nle_encoder") | bpe_head,
        "encoder_layer_indices": list(size.encoder.captured_layers),
        "llm_config": _editor(size, "granite", dtype) | {"rope_theta": 10000},
        "model_type": "nle",
        "projector_config": _hub_projector(size, "nle_projector"),
        "scale_projected_embeddings": True,
        "torch_dtype": dtype,
        "transformers_version": "4.57.1",
    }


def _granite_speech_nar(size: ModelSize, dtype: str) -> Json:
    bpe_head = {
        "bpe_output_dim": size.vocabulary.total,
        "bpe_pooling_window": size.encoder.pooling_window,
        "blank_token_id": size.vocabulary.eos_id,
        "pred_dropout": 0.25,
    }
    code = "granite_speech_nar"
    return _root(size, "GraniteSpeechNarForASR", dtype) | {
        "auto_map": {
            "AutoConfig": f"configuration_{code}.GraniteSpeechNarConfig",
            "AutoModel": f"modeling_{code}.GraniteSpeechNarForASR",
        },
        "encoder_config": _encoder(size.encoder, f"{code}_encoder") | bpe_head,
        "encoder_layer_indices": list(size.encoder.captured_layers),
        "min_edit_sequence_length": MIN_EDIT_LENGTH,
        "projector_config": _hub_projector(size, f"{code}_projector"),
        "scale_projected_embeddings": True,
        "text_config": _editor(size, "granite", dtype) | _rope(),
    }


def _native(size: ModelSize, dtype: str) -> Json:
    *captured, last = size.encoder.captured_layers
    assert last == -1  # this layout always appends the final state
    bpe_head = {
        "cat_hidden_layers": captured,
        "initializer_range": 0.02,
        "pooling_window": size.encoder.pooling_window,
        "vocabulary_size": size.vocabulary.total,
    }
    projector = size.projector
    return _root(size, "GraniteSpeechNarForCTC", dtype) | {
        "encoder_config": _encoder(size.encoder, "granite_speech_nar_encoder") | bpe_head,
        "projector_config": {
            "attention_bias": True,
            "attention_dropout": 0.0,
            "downsample_rate": projector.downsample_rate,
            "hidden_act": "silu",
            "hidden_size": projector.hidden,
            "intermediate_size": projector.ffn,
            "layer_norm_eps": 1e-06,
            "model_type": "granite_speech_nar_projector",
            "num_attention_heads": projector.heads,
            "num_hidden_layers": projector.layers,
            "num_key_value_heads": projector.heads,
            "window_size": projector.block_size,
        },
        "text_config": _editor(size, "granite_speech_nar_text", dtype) | _rope(),
    }


def _root(size: ModelSize, architecture: str, dtype: str) -> Json:
    return {
        "architectures": [architecture],
        "blank_token_id": size.vocabulary.eos_id,
        "ce_loss_lambda": 0.0,
        "dtype": dtype,
        "encoder_ctc_loss_lambda": 0.0,
        "model_type": "granite_speech_nar",
        "tie_word_embeddings": True,
        "transformers_version": "5.5.3",
    }


def _encoder(size: EncoderSize, model_type: str) -> Json:
    return {
        "context_size": size.context_size,
        "conv_expansion_factor": size.conv_expansion,
        "conv_kernel_size": size.conv_kernel,
        "dim_head": size.head_dim,
        "dropout": 0.1,
        "feedforward_mult": size.feedforward_mult,
        "hidden_dim": size.hidden,
        "input_dim": size.input_dim,
        "max_pos_emb": size.max_pos_emb,
        "model_type": model_type,
        "num_heads": size.heads,
        "num_layers": size.layers,
        "output_dim": size.characters,
        "self_conditioning_layer": size.self_conditioning_layer,
    }


def _hub_projector(size: ModelSize, model_type: str) -> Json:
    projector = size.projector
    return {
        "attn_bias": True,
        "block_size": projector.block_size,
        "downsample_rate": projector.downsample_rate,
        "dropout_prob": 0.1,
        "encoder_dim": size.encoder.hidden,
        "hidden_size": projector.hidden,
        "layernorm_eps": 1e-06,
        "llm_dim": size.editor.hidden,
        "mlp_bias": True,
        "mlp_ratio": projector.mlp_ratio,
        "model_type": model_type,
        "num_encoder_layers": len(size.encoder.captured_layers),
        "num_heads": projector.heads,
        "num_layers": projector.layers,
    }


def _editor(size: ModelSize, model_type: str, dtype: str) -> Json:
    editor, vocabulary = size.editor, size.vocabulary
    return {
        "architectures": ["GraniteForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "attention_multiplier": editor.attention_multiplier,
        "bos_token_id": vocabulary.eos_id,
        "dtype": dtype,
        "embedding_multiplier": editor.embedding_multiplier,
        "eos_token_id": vocabulary.eos_id,
        "hidden_act": "silu",
        "hidden_size": editor.hidden,
        "initializer_range": 0.1,
        "intermediate_size": editor.ffn,
        "logits_scaling": editor.logits_scaling,
        "max_position_embeddings": MODEL_MAX_LENGTH,
        "mlp_bias": False,
        "model_type": model_type,
        "num_attention_heads": editor.heads,
        "num_hidden_layers": editor.layers,
        "num_key_value_heads": editor.kv_heads,
        "pad_token_id": vocabulary.pad_id,
        "residual_multiplier": editor.residual_multiplier,
        "rms_norm_eps": 1e-05,
        "tie_word_embeddings": True,
        "use_cache": True,
        "vocab_size": vocabulary.total,
    }


def _rope() -> Json:
    return {"rope_parameters": {"rope_theta": 10000, "rope_type": "default"}}


def char2idx(characters: int) -> dict[str, int]:
    """Map characters to the ids of the character head: Latin-1 at its code points, then katakana.

    A head too small for that gets its letters from id 1 on. Either way 0, the blank, is nobody's,
    and other ids stay unmapped.
    """
    if characters >= 256:
        latin = {chr(code): code for code in range(32, 256)}
        return latin | {chr(0x30A1 + n): 256 + n for n in range(characters - 256)}
    letters = " etaoinshrdlcumwfgypbvkjxqz'éèüñç"
    return {letter: n for n, letter in enumerate(letters[: characters - 1], 1)}


def _stft() -> Json:
    return {"hop_length": 160, "n_fft": 512, "sampling_rate": 16000, "win_length": 400}


def _nle_front_end() -> Json:
    extractor = "NLEFeatureExtractor"
    return {
        "auto_map": {"AutoFeatureExtractor": f"feature_extraction_nle.{extractor}"},
        "feature_extractor_type": extractor,
        "n_mels": MEL_BANDS,
    } | _stft()


def _granite_speech_nar_front_end() -> Json:
    extractor, code = "GraniteSpeechNarFeatureExtractor", "granite_speech_nar"
    return {
        "auto_map": {
            "AutoFeatureExtractor": f"feature_extraction_{code}.{extractor}",
            "AutoProcessor": f"processing_{code}.GraniteSpeechNarProcessor",
        },
        "feature_extractor_type": extractor,
        "n_mels": MEL_BANDS,
        "processor_class": "GraniteSpeechNarProcessor",
    } | _stft()


def _native_front_end() -> Json:
    extractor = {
        "feature_extractor_type": "GraniteSpeechNarFeatureExtractor",
        "feature_size": MEL_BANDS,
        "frame_stacking": 2,
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": True,
    }
    processor = {"processor_class": "GraniteSpeechNarProcessor"}
    return {"feature_extractor": extractor | _stft()} | processor


def _write(path: Path, content: Json) -> None:
    text = json.dumps(content, ensure_ascii=False, indent=2, sort_keys=True)
    path.write_text(text + "\n", encoding="utf-8")


_CONFIGS: dict[str, Callable[[ModelSize, str], Json]] = {
    "nle": _nle,
    "granite_speech_nar": _granite_speech_nar,
    "native": _native,
}
_FRONT_ENDS: dict[str, Callable[[], Json]] = {
    "nle": _nle_front_end,
    "granite_speech_nar": _granite_speech_nar_front_end,
    "native": _native_front_end,
}
