"""Write a checkpoint of the autoregressive model as others publish it.

python tests/support/speech_files.py CHECKPOINT model.gguf --as transcribe.cpp --mixture q4_k_m

``crispasr`` and ``transcribe.cpp`` both name the architecture ``granite_speech``; a pair for
llama.cpp lies in two files. Written from descriptions of the dialects with gguf-py, and with
nothing of what reads such files here.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

import gguf
import numpy as np
import numpy.typing as npt

from tests.support.dialect_file import (
    GGML,
    Array,
    Kind,
    Metadata,
    Renames,
    Tensors,
    f32,
    hann_window,
    mel_filterbank,
    read_safetensors,
    tokenizer_metadata,
    u32,
    write_dialect_file,
)

Fields = dict[str, Any]

ARCHITECTURE = "granite_speech"

_CRISPASR: Renames = (
    (r"^encoder\.layers\.", "enc.blk."),
    (r"^encoder\.input_linear\.", "enc.input."),
    (r"^encoder\.out\.", "enc.ctc_out."),
    (r"^encoder\.out_mid\.", "enc.ctc_mid."),
    (r"\.(ff[12])\.pre_norm\.", r".\1_norm."),
    (r"\.(ff[12])\.(up|down)_proj\.", r".\1_\2."),
    (r"\.attn\.pre_norm\.", ".attn_norm."),
    (r"\.attn\.to_(q|kv|out)\.", r".attn_\1."),
    (r"\.attn\.rel_pos_emb\.", ".attn_rel_pos."),
    (r"\.conv\.norm\.", ".conv_norm."),
    (r"\.conv\.(up|down)_conv\.", r".conv_\1."),
    (r"\.conv\.depth_conv\.conv\.", ".conv_dw."),
    (r"\.conv\.batch_norm\.", ".conv_bn."),
    (r"^projector\.qformer\.layernorm\.", "proj.ln."),
    (r"^projector\.qformer\.encoder\.layer\.", "proj.blk."),
    (r"^projector\.", "proj."),
    (r"\.attention\.attention\.", ".sa_"),
    (r"\.attention\.output\.dense\.", ".sa_out."),
    (r"\.attention\.output\.LayerNorm\.", ".sa_norm."),
    (r"\.crossattention\.attention\.", ".ca_"),
    (r"\.crossattention\.output\.dense\.", ".ca_out."),
    (r"\.crossattention\.output\.LayerNorm\.", ".ca_norm."),
    (r"\.intermediate_query\.dense\.", ".ffn_up."),
    (r"\.output_query\.dense\.", ".ffn_down."),
    (r"\.output_query\.LayerNorm\.", ".ffn_norm."),
    (r"^language_model\.model\.embed_tokens\.", "token_embd."),
    (r"^language_model\.model\.norm\.", "output_norm."),
    (r"^language_model\.lm_head\.", "output."),
    (r"^language_model\.model\.layers\.", "blk."),
    (r"\.input_layernorm\.", ".attn_norm."),
    (r"\.post_attention_layernorm\.", ".ffn_norm."),
    (r"\.self_attn\.([qkv])_proj\.", r".attn_\1."),
    (r"\.self_attn\.o_proj\.", ".attn_output."),
    (r"\.mlp\.(gate|up|down)_proj\.", r".ffn_\1."),
)

_TRANSCRIBE_CPP: Renames = (
    (r"^encoder\.layers\.", "enc.blocks."),
    (r"^encoder\.input_linear\.", "enc.input_linear."),
    (r"^encoder\.out\.", "enc.ctc_proj."),
    (r"^encoder\.out_mid\.", "enc.ctc_bypass."),
    (r"\.(ff[12])\.pre_norm\.", r".norm_\1."),
    (r"\.(ff[12])\.(up|down)_proj\.", r".\1.\2."),
    (r"\.attn\.pre_norm\.", ".norm_attn."),
    (r"\.attn\.to_(q|kv|out)\.", r".attn.\1."),
    (r"\.conv\.norm\.", ".norm_conv."),
    (r"\.conv\.up_conv\.", ".conv.pointwise1."),
    (r"\.conv\.down_conv\.", ".conv.pointwise2."),
    (r"\.conv\.depth_conv\.conv\.", ".conv.depthwise."),
    (r"\.conv\.batch_norm\.", ".conv.bn."),
    (r"\.post_norm\.", ".norm_post."),
    (r"^projector\.qformer\.layernorm\.", "proj.qformer.final_norm."),
    (r"^projector\.qformer\.encoder\.layer\.", "proj.qformer.blocks."),
    (r"^projector\.", "proj."),
    (r"\.attention\.attention\.([qkv])\w+\.", r".self_attn.\1."),
    (r"\.attention\.output\.dense\.", ".self_attn.out."),
    (r"\.attention\.output\.LayerNorm\.", ".norm_self_attn."),
    (r"\.crossattention\.attention\.([qkv])\w+\.", r".cross_attn.\1."),
    (r"\.crossattention\.output\.dense\.", ".cross_attn.out."),
    (r"\.crossattention\.output\.LayerNorm\.", ".norm_cross_attn."),
    (r"\.intermediate_query\.dense\.", ".ffn.up."),
    (r"\.output_query\.dense\.", ".ffn.down."),
    (r"\.output_query\.LayerNorm\.", ".norm_ffn."),
    (r"^language_model\.model\.embed_tokens\.", "dec.token_embd."),
    (r"^language_model\.model\.norm\.", "dec.output_norm."),
    (r"^language_model\.lm_head\.", "dec.output."),
    (r"^language_model\.model\.layers\.", "dec.blocks."),
    (r"\.input_layernorm\.", ".norm_attn."),
    (r"\.post_attention_layernorm\.", ".norm_ffn."),
    (r"\.self_attn\.([qkvo])_proj\.", r".attn.\1."),
    (r"\.mlp\.(gate|up|down)_proj\.", r".ffn.\1."),
)


def _config(directory: Path) -> Fields:
    config: Fields = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    return config


def _theta(text: Fields) -> float:
    return float(
        text["rope_theta"] if "rope_theta" in text else text["rope_parameters"]["rope_theta"]
    )


def _tensors(directory: Path, renames: Renames) -> Tensors:
    return read_safetensors(directory / "model.safetensors").under(renames)


# CrispASR


def crispasr_metadata(directory: Path, *, eos_token_id: int | None = None) -> Metadata:
    """The keys of such a file; it has neither a name nor any of its tokenizer but two lists."""
    config = _config(directory)
    e, p, t = (config[f"{part}_config"] for part in ("encoder", "projector", "text"))
    cat = e.get("cat_hidden_layers")
    eos = t["eos_token_id"] if eos_token_id is None else eos_token_id
    tokenizer = tokenizer_metadata(directory)
    return {
        **u32("granite_speech.", sample_rate=16000, n_mels=80),
        **u32(
            "granite_speech.enc.",
            n_layers=e["num_layers"],
            d_model=e["hidden_dim"],
            n_heads=e["num_heads"],
            head_dim=e["dim_head"],
            input_dim=e["input_dim"],
            conv_kernel=e["conv_kernel_size"],
            ff_dim=e["hidden_dim"] * e["feedforward_mult"],
            context_size=e["context_size"],
            max_pos_emb=e["max_pos_emb"],
        ),
        **u32(
            "granite_speech.proj.",
            n_layers=p["num_hidden_layers"],
            d_model=p["hidden_size"],
            n_heads=p["num_attention_heads"],
            ff_dim=p["intermediate_size"],
            encoder_hidden_size=p["encoder_hidden_size"],
        ),
        **(
            {"granite_speech.proj.cat_layers": (",".join(map(str, cat)), Kind.STRING)}
            if cat
            else {}
        ),
        **u32(
            "granite_speech.llm.",
            n_layers=t["num_hidden_layers"],
            d_model=t["hidden_size"],
            n_heads=t["num_attention_heads"],
            n_kv_heads=t["num_key_value_heads"],
            head_dim=t["hidden_size"] // t["num_attention_heads"],
            ff_dim=t["intermediate_size"],
            vocab_size=t["vocab_size"],
            eos_token_id=eos,
            bos_token_id=eos,
        ),
        **f32(
            "granite_speech.llm.",
            rope_theta=_theta(t),
            rms_norm_eps=t["rms_norm_eps"],
            embedding_multiplier=t["embedding_multiplier"],
            attention_multiplier=t["attention_multiplier"],
            residual_multiplier=t["residual_multiplier"],
            logits_scaling=t["logits_scaling"],
        ),
        **u32(
            "granite_speech.",
            downsample_rate=config["downsample_rate"],
            window_size=config["window_size"],
            audio_token_index=config["audio_token_index"],
        ),
        "tokenizer.ggml.tokens": tokenizer["tokenizer.ggml.tokens"],
        "tokenizer.ggml.merges": tokenizer["tokenizer.ggml.merges"],
    }


def crispasr_tensors(directory: Path) -> Tensors:
    """Weights and filterbank in float32; a head always, and a window that is not to be used."""
    tensors = _tensors(directory, _CRISPASR)
    if "output.weight" not in tensors:
        tensors["output.weight"] = tensors["token_embd.weight"]
    window = np.zeros(512, np.float32)
    window[:400] = hann_window(400)
    tensors["audio.mel_filters"] = np.ascontiguousarray(mel_filterbank(16000, 512, 80).T)
    tensors["audio.mel_window"] = window
    return tensors


def crispasr_type(name: str) -> gguf.GGMLQuantizationType:
    """Of its F16 files: the language model's matrices, and nothing else."""
    language = name.startswith(("blk.", "token_embd", "output."))
    return GGML.F16 if language and "norm" not in name else GGML.F32


# transcribe.cpp


def transcribe_cpp_metadata(directory: Path, variant: str) -> Metadata:
    """All the keys of such a file."""
    config = _config(directory)
    e, p, t = (config[f"{part}_config"] for part in ("encoder", "projector", "text"))
    plus = variant.endswith("-plus")
    template = (directory / "chat_template.jinja").read_text(encoding="utf-8")
    root = "stt.granite."
    return {
        "general.basename": ("granite-speech", Kind.STRING),
        "general.languages": (["en", "fr"], Kind.STRING),
        "stt.variant": (variant, Kind.STRING),
        "stt.capability.translate": (not plus, Kind.BOOL),
        "stt.capability.lang_detect": (False, Kind.BOOL),
        "stt.capability.word_timestamps": (plus, Kind.BOOL),
        "stt.capability.speaker_diarization": (plus, Kind.BOOL),
        **tokenizer_metadata(directory),
        "tokenizer.ggml.pre": ("gpt2" if plus else "granite", Kind.STRING),
        "tokenizer.ggml.add_bos_token": (False, Kind.BOOL),
        "tokenizer.ggml.add_eos_token": (False, Kind.BOOL),
        "tokenizer.chat_template": (template, Kind.STRING),
        **u32(
            root + "encoder.",
            n_layers=e["num_layers"],
            hidden=e["hidden_dim"],
            n_heads=e["num_heads"],
            head_dim=e["dim_head"],
            input_dim=e["input_dim"],
            output_dim=e["output_dim"],
            feedforward_mult=e["feedforward_mult"],
            conv_kernel_size=e["conv_kernel_size"],
            conv_expansion=e["conv_expansion_factor"],
            max_pos_emb=e["max_pos_emb"],
            context_size=e["context_size"],
        ),
        **(
            {root + "encoder.cat_hidden_layers": (e["cat_hidden_layers"], Kind.INT32)}
            if "cat_hidden_layers" in e
            else {}
        ),
        **u32(
            root + "projector.",
            n_layers=p["num_hidden_layers"],
            hidden=p["hidden_size"],
            intermediate=p["intermediate_size"],
            n_heads=p["num_attention_heads"],
            encoder_hidden_size=p["encoder_hidden_size"],
            cross_attn_frequency=p["cross_attention_frequency"],
            max_pos_emb=p["max_position_embeddings"],
        ),
        root + "projector.hidden_act": (p["hidden_act"], Kind.STRING),
        root + "projector.position_embedding_type": ("absolute", Kind.STRING),
        **f32(root + "projector.", layer_norm_eps=p["layer_norm_eps"]),
        **u32(
            root + "decoder.",
            n_layers=t["num_hidden_layers"],
            hidden_size=t["hidden_size"],
            intermediate_size=t["intermediate_size"],
            n_heads=t["num_attention_heads"],
            n_kv_heads=t["num_key_value_heads"],
            head_dim=t["hidden_size"] // t["num_attention_heads"],
            max_position_embeddings=t["max_position_embeddings"],
            vocab_size=t["vocab_size"],
        ),
        root + "decoder.hidden_act": (t["hidden_act"], Kind.STRING),
        root + "decoder.tie_word_embeddings": (t["tie_word_embeddings"], Kind.BOOL),
        **f32(
            root + "decoder.",
            rms_norm_eps=t["rms_norm_eps"],
            rope_theta=_theta(t),
            embedding_multiplier=t["embedding_multiplier"],
            logits_scaling=t["logits_scaling"],
            attention_multiplier=t["attention_multiplier"],
            residual_multiplier=t["residual_multiplier"],
        ),
        **u32(
            root,
            audio_token_id=config["audio_token_index"],
            window_size=config["window_size"],
            downsample_rate=config["downsample_rate"],
        ),
        **_transcribe_cpp_front_end(),
    }


def _transcribe_cpp_front_end() -> Metadata:
    prefix = "stt.frontend."
    words = {
        "type": "mel",
        "window": "hann_periodic",
        "normalize": "per_utterance",
        "pad_mode": "reflect",
        "mel_norm": "htk",
    }
    return {
        **{prefix + key: (value, Kind.STRING) for key, value in words.items()},
        **u32(prefix, sample_rate=16000, num_mels=80, n_fft=512, win_length=400, hop_length=160),
        **f32(prefix, dither=0, pre_emphasis=0, f_min=0, f_max=8000),
        prefix + "center": (True, Kind.BOOL),
    }


def transcribe_cpp_tensors(directory: Path) -> Tensors:
    """Weights, filterbank and window in float32; a head where the checkpoint has one."""
    tensors = _tensors(directory, _TRANSCRIBE_CPP)
    tensors["frontend.mel_filterbank"] = mel_filterbank(16000, 512, 80)
    tensors["frontend.window"] = hann_window(400)
    return tensors


_VECTOR = re.compile(r".*(\.bias|norm.*\.weight|conv\.bn\..*|^frontend\..*)")


def _bfloat(name: str) -> gguf.GGMLQuantizationType:
    if _VECTOR.fullmatch(name):
        return GGML.F32
    return GGML.F16 if ".conv." in name else GGML.BF16


def _quantized(
    linear: gguf.GGMLQuantizationType, embedding: gguf.GGMLQuantizationType
) -> Callable[[str], gguf.GGMLQuantizationType]:
    """Of models whose rows are all multiples of 256, but for those named here."""

    def choose(name: str) -> gguf.GGMLQuantizationType:
        if _VECTOR.fullmatch(name) or "conv.depthwise" in name:
            return GGML.F32
        for pattern, kind in (
            (r"conv\.pointwise|ctc_bypass", GGML.F16),
            (r"rel_pos_emb|input_linear|attn\.(out|o)\.", GGML.Q8_0),
            (r"token_embd", embedding),
        ):
            if re.search(pattern, name):
                return kind
        return linear

    return choose


TRANSCRIBE_CPP_MIXTURES: dict[str, Callable[[str], gguf.GGMLQuantizationType]] = {
    "f32": lambda _name: GGML.F32,
    "bf16": _bfloat,
    "q8_0": _quantized(GGML.Q8_0, GGML.Q8_0),
    "q4_k_m": _quantized(GGML.Q4_K, GGML.Q6_K),
}


# llama.cpp's pair


def _permuted(values: npt.NDArray[Any], heads: int) -> npt.NDArray[Any]:
    """Rows of queries or keys as llama.cpp's converter turns them: both halves take turns."""
    half = values.shape[0] // heads // 2
    return values.reshape(heads, 2, half, -1).swapaxes(1, 2).reshape(values.shape)


def llama_cpp_text(directory: Path, name: str) -> tuple[Metadata, dict[str, Array]]:
    """Keys and tensors of the language model, written through gguf-py's tables."""
    t = _config(directory)["text_config"]
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GRANITE, t["num_hidden_layers"])
    tensors: dict[str, Array] = {}
    for key, values in read_safetensors(directory / "model.safetensors").items():
        if not key.startswith("language_model."):
            continue
        heads = {"q": t["num_attention_heads"], "k": t["num_key_value_heads"]}
        rotated = re.search(r"\.([qk])_proj\.", key)
        stored = names.get_name(key.removeprefix("language_model."), try_suffixes=(".weight",))
        assert stored is not None, key
        tensors[stored] = _permuted(values, heads[rotated[1]]) if rotated else values
    keys, arch = gguf.Keys, gguf.MODEL_ARCH_NAMES[gguf.MODEL_ARCH.GRANITE]
    integers = {
        keys.LLM.BLOCK_COUNT: t["num_hidden_layers"],
        keys.LLM.CONTEXT_LENGTH: t["max_position_embeddings"],
        keys.LLM.EMBEDDING_LENGTH: t["hidden_size"],
        keys.LLM.FEED_FORWARD_LENGTH: t["intermediate_size"],
        keys.LLM.VOCAB_SIZE: t["vocab_size"],
        keys.Attention.HEAD_COUNT: t["num_attention_heads"],
        keys.Attention.HEAD_COUNT_KV: t["num_key_value_heads"],
        keys.Rope.DIMENSION_COUNT: t["hidden_size"] // t["num_attention_heads"],
    }
    floats = {
        keys.LLM.EMBEDDING_SCALE: t["embedding_multiplier"],
        keys.LLM.RESIDUAL_SCALE: t["residual_multiplier"],
        keys.LLM.LOGIT_SCALE: t["logits_scaling"],
        keys.Attention.SCALE: t["attention_multiplier"],
        keys.Attention.LAYERNORM_RMS_EPS: t["rms_norm_eps"],
        keys.Rope.FREQ_BASE: _theta(t),
    }
    template = (directory / "chat_template.jinja").read_text(encoding="utf-8")
    metadata: Metadata = {
        keys.General.NAME: (name, Kind.STRING),
        **{k.format(arch=arch): (v, Kind.UINT32) for k, v in integers.items()},
        **{k.format(arch=arch): (float(v), Kind.FLOAT32) for k, v in floats.items()},
        **tokenizer_metadata(directory),
        "tokenizer.ggml.pre": ("gpt-2" if name.endswith("Plus") else "dbrx", Kind.STRING),
        "tokenizer.chat_template": (template, Kind.STRING),
    }
    return metadata, tensors


def llama_cpp_audio(directory: Path) -> tuple[Metadata, dict[str, Array]]:
    """Keys and tensors of the audio part, whose batch norms are folded and convolutions flat."""
    config = _config(directory)
    e, p = config["encoder_config"], config["projector_config"]
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.MMPROJ, e["num_layers"])
    stored = read_safetensors(directory / "model.safetensors")
    found: dict[str, Array] = {}
    for key, values in stored.items():
        if ".attn.to_kv." in key:
            for part, half in zip("kv", np.split(values, 2), strict=True):
                found[key.replace("to_kv", f"to_{part}")] = half
        elif key.startswith(("encoder.", "projector.")) and "batch_norm" not in key:
            found[key] = values.squeeze() if "_conv" in key and values.ndim == 3 else values
    for n in range(e["num_layers"]):
        at = f"encoder.layers.{n}.conv.batch_norm."
        weight, bias, mean, variance = (
            stored[at + part] for part in ("weight", "bias", "running_mean", "running_var")
        )
        scale = weight / np.sqrt(variance + np.float32(1e-5))
        found |= {at + "weight": scale, at + "bias": bias - mean * scale}
    tensors: dict[str, Array] = {}
    for key, values in found.items():
        name = names.get_name(key, try_suffixes=(".weight", ".bias"))
        assert name is not None, key
        tensors[name] = values
    keys = gguf.Keys.ClipAudio
    integers = {
        keys.PROJECTION_DIM: config["text_config"]["hidden_size"],
        keys.EMBEDDING_LENGTH: e["hidden_dim"],
        keys.FEED_FORWARD_LENGTH: e["hidden_dim"] * e["feedforward_mult"],
        keys.BLOCK_COUNT: e["num_layers"],
        keys.Attention.HEAD_COUNT: e["num_heads"],
        keys.NUM_MEL_BINS: e["input_dim"],
        keys.CHUNK_SIZE: e["context_size"],
        keys.CONV_KERNEL_SIZE: e["conv_kernel_size"],
        keys.MAX_POS_EMB: e["max_pos_emb"],
        keys.Projector.WINDOW_SIZE: config["window_size"],
        keys.Projector.DOWNSAMPLE_RATE: config["downsample_rate"],
        keys.Projector.HEAD_COUNT: p["num_attention_heads"],
    }
    metadata: Metadata = {
        gguf.Keys.Clip.HAS_AUDIO_ENCODER: (True, Kind.BOOL),
        gguf.Keys.Clip.PROJECTOR_TYPE: ("granite_speech", Kind.STRING),
        keys.Attention.LAYERNORM_EPS: (1e-5, Kind.FLOAT32),
        **{key: (value, Kind.UINT32) for key, value in integers.items()},
    }
    if "cat_hidden_layers" in e:
        metadata["clip.audio.feature_layer"] = (e["cat_hidden_layers"], Kind.INT32)
    return metadata, tensors


def llama_cpp_audio_type(name: str) -> gguf.GGMLQuantizationType:
    """Of ``mmproj-model-f16.gguf``: what is multiplied F16, but for the convolutions."""
    plain = name.endswith((".bias", "_emb", "query")) or "norm" in name or ".conv_" in name
    return GGML.F32 if plain or ".ln" in name else GGML.F16


def main() -> int:
    parser = argparse.ArgumentParser(description="Write a checkpoint as others publish it.")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--as", dest="form", choices=("crispasr", "transcribe.cpp"), required=True)
    parser.add_argument("--variant", default="granite-speech-4.1-2b")
    parser.add_argument(
        "--mixture", choices=TRANSCRIBE_CPP_MIXTURES, default="bf16", help="of transcribe.cpp"
    )
    options = parser.parse_args()
    if options.form == "crispasr":
        metadata = crispasr_metadata(options.checkpoint)
        tensors, types = crispasr_tensors(options.checkpoint), crispasr_type
    else:
        metadata = transcribe_cpp_metadata(options.checkpoint, options.variant)
        tensors = transcribe_cpp_tensors(options.checkpoint)
        types = TRANSCRIBE_CPP_MIXTURES[options.mixture]
    write_dialect_file(options.output, metadata, tensors, types, architecture=ARCHITECTURE)
    print(f"{options.output}: {len(tensors)} tensors, {options.output.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
