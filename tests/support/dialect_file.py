"""Write a checkpoint as a ``granite_speech_nar`` GGUF file, as others publish the model.

python tests/support/dialect_file.py training/checkpoint model-Q4_K_M.gguf --mixture q4_k_m

Written from the dialect's description with gguf-py, and with nothing of what reads such files here.
The K-quants' encoder is ggml's.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from functools import partial
from pathlib import Path
from typing import Any

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

import gguf
import numpy as np
import numpy.typing as npt

from granite_gguf.ggml.quants import encode_rows, prepare_encoding

ARCHITECTURE = "granite_speech_nar"
GGML, Kind = gguf.GGMLQuantizationType, gguf.GGUFValueType
Array = npt.NDArray[Any]
Fields = dict[str, Any]
Metadata = dict[str, tuple[Any, gguf.GGUFValueType]]
"""Metadata values and their types; those of arrays are the types of their elements."""
Renames = tuple[tuple[str, str], ...]

_RENAMES: Renames = (
    (r"^encoder\.layers\.", "enc.blocks."),
    (r"^encoder\.input_linear\.", "enc.input_linear."),
    (r"^encoder\.out\.", "enc.ctc_proj."),
    (r"^encoder\.out_mid\.", "enc.ctc_bypass."),
    (r"^encoder\.out_bpe\.", "enc.ctc_bpe."),
    (r"\.(ff[12])\.pre_norm\.", r".norm_\1."),
    (r"\.(ff[12])\.(up|down)_proj\.", r".\1_\2."),
    (r"\.attn\.pre_norm\.", ".norm_attn."),
    (r"\.attn\.to_(q|kv|out)\.", r".attn_\1."),
    (r"\.attn\.rel_pos_emb\.", ".attn_rel_pos_emb."),
    (r"\.conv\.norm\.", ".norm_conv."),
    (r"\.conv\.up_conv\.", ".conv_pointwise1."),
    (r"\.conv\.depth_conv\.conv\.", ".conv_depthwise."),
    (r"\.conv\.batch_norm\.", ".conv_bn."),
    (r"\.conv\.down_conv\.", ".conv_pointwise2."),
    (r"\.post_norm\.", ".norm_post."),
    (r"^projector\.qformer\.layers\.(\d+)\.attn_norm\.", r"prj.blocks.\1.norm_attn."),
    (r"^projector\.qformer\.layers\.(\d+)\.mlp_norm\.", r"prj.blocks.\1.norm_ffn."),
    (
        r"^projector\.qformer\.layers\.(\d+)\.cross_attention\.([qkvo])_proj\.",
        r"prj.blocks.\1.cross_attn_\2.",
    ),
    (r"^projector\.qformer\.layers\.(\d+)\.mlp\.(fc[12])\.", r"prj.blocks.\1.ffn_\2."),
    (r"^projector\.", "prj."),
    (r"^(language_model|llm)\.model\.embed_tokens\.", "dec.token_embd."),
    (r"^(language_model|llm)\.model\.norm\.", "dec.output_norm."),
    (r"^(language_model|llm)\.model\.layers\.", "dec.blocks."),
    (r"^(dec\.blocks\.\d+)\.input_layernorm\.", r"\1.norm_attn."),
    (r"^(dec\.blocks\.\d+)\.post_attention_layernorm\.", r"\1.norm_ffn."),
    (r"^(dec\.blocks\.\d+)\.self_attn\.([qkvo])_proj\.", r"\1.attn.\2."),
    (r"^(dec\.blocks\.\d+)\.mlp\.(gate|up|down)_proj\.", r"\1.ffn.\2."),
)

_VECTOR = re.compile(r".*(\.bias|norm.*\.weight|conv_bn\..*|^frontend\..*)")
_CONVOLUTION = re.compile(r".*\.conv_(pointwise\d|depthwise)\.weight")


def _half(name: str) -> gguf.GGMLQuantizationType:
    return GGML.F32 if _VECTOR.fullmatch(name) else GGML.F16


def _bfloat(name: str) -> gguf.GGMLQuantizationType:
    """Convolutions in F16: the reader of that project runs no others."""
    if _VECTOR.fullmatch(name):
        return GGML.F32
    return GGML.F16 if _CONVOLUTION.fullmatch(name) else GGML.BF16


def _quantized(
    linear: gguf.GGMLQuantizationType,
    output: gguf.GGMLQuantizationType,
    embedding: gguf.GGMLQuantizationType,
) -> Callable[[str], gguf.GGMLQuantizationType]:
    def choose(name: str) -> gguf.GGMLQuantizationType:
        if _VECTOR.fullmatch(name) or name.startswith(("prj.query", "prj.window_positions")):
            return GGML.F32
        for pattern, kind in (
            (r"enc\.blocks\.\d+\.conv_depthwise\.weight", GGML.F32),
            (r"enc\.blocks\.\d+\.conv_pointwise\d\.weight|enc\.ctc_bypass\.weight", GGML.F16),
            (r"enc\.blocks\.\d+\.attn_rel_pos_emb\.weight|enc\.input_linear\.weight", GGML.Q8_0),
            (r"dec\.blocks\.\d+\.attn\.o\.weight", output),
            (r"dec\.token_embd\.weight", embedding),
        ):
            if re.fullmatch(pattern, name):
                return kind
        return linear

    return choose


MIXTURES: Mapping[str, Callable[[str], gguf.GGMLQuantizationType]] = {
    "f32": lambda _name: GGML.F32,
    "f16": _half,
    "bf16": _bfloat,
    "q8_0": _quantized(GGML.Q8_0, GGML.Q8_0, GGML.Q8_0),
    "q4_k_m": _quantized(GGML.Q4_K, GGML.Q8_0, GGML.Q6_K),
}


def dialect_metadata(directory: Path) -> Metadata:
    """All the keys of such a file, from a checkpoint's JSON."""
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    front_end = json.loads((directory / "preprocessor_config.json").read_text(encoding="utf-8"))
    return {
        "general.basename": ("granite-speech-nar", Kind.STRING),
        "general.languages": (["en", "fr"], Kind.STRING),
        "stt.variant": ("granite-speech-mini-nar", Kind.STRING),
        "stt.capability.translation": (False, Kind.BOOL),
        **tokenizer_metadata(directory),
        **_encoder(config),
        **_projector(config),
        **_text(config),
        **_front_end(front_end),
    }


def u32(prefix: str, **values: int) -> Metadata:
    return {prefix + key: (value, Kind.UINT32) for key, value in values.items()}


def f32(prefix: str, **values: float) -> Metadata:
    return {prefix + key: (float(value), Kind.FLOAT32) for key, value in values.items()}


def _encoder(config: Fields) -> Metadata:
    e = config["encoder_config"]
    characters = (config.get("ctc_tokenizer_config") or {}).get("char2idx", {"e": 101, "é": 233})
    table = [""] * max(e["output_dim"], *(index + 1 for index in characters.values()))
    for character, index in characters.items():
        table[index] = character
    return {
        "stt.granite_nar.ctc_chars": (table, Kind.STRING),
        **u32(
            "stt.granite_nar.encoder.",
            n_layers=e["num_layers"],
            hidden=e["hidden_dim"],
            n_heads=e["num_heads"],
            head_dim=e["dim_head"],
            input_dim=e["input_dim"],
            output_dim=e["output_dim"],
            bpe_output_dim=e["bpe_output_dim"],
            bpe_pool_window=e["bpe_pooling_window"],
            bpe_blank_id=e.get("blank_token_id", 0),
            self_cond_layer=e["self_conditioning_layer"],
            feedforward_mult=e["feedforward_mult"],
            conv_kernel_size=e["conv_kernel_size"],
            conv_expansion=e["conv_expansion_factor"],
            max_pos_emb=e["max_pos_emb"],
            context_size=e["context_size"],
        ),
        "stt.granite_nar.encoder.layer_indices": (config["encoder_layer_indices"], Kind.INT32),
    }


def _projector(config: Fields) -> Metadata:
    p, prefix = config["projector_config"], "stt.granite_nar.projector."
    return {
        **u32(
            prefix,
            n_layers=p["num_layers"],
            hidden=p["hidden_size"],
            mlp_ratio=p["mlp_ratio"],
            n_heads=p["num_heads"],
            encoder_dim=p["encoder_dim"],
            num_encoder_layers=p["num_encoder_layers"],
            block_size=p["block_size"],
            downsample_rate=p["downsample_rate"],
            llm_dim=p["llm_dim"],
        ),
        **f32(prefix, layernorm_eps=p["layernorm_eps"]),
        prefix + "attn_bias": (p["attn_bias"], Kind.BOOL),
        prefix + "mlp_bias": (p["mlp_bias"], Kind.BOOL),
        "stt.granite_nar.scale_projected_embeddings": (
            config["scale_projected_embeddings"],
            Kind.BOOL,
        ),
    }


def _text(config: Fields) -> Metadata:
    t, prefix = config.get("text_config") or config["llm_config"], "stt.granite_nar.text."
    return {
        **u32(
            prefix,
            n_layers=t["num_hidden_layers"],
            hidden=t["hidden_size"],
            intermediate=t["intermediate_size"],
            n_heads=t["num_attention_heads"],
            n_kv_heads=t["num_key_value_heads"],
            head_dim=t["hidden_size"] // t["num_attention_heads"],
            vocab_size=t["vocab_size"],
            max_position_embeddings=t["max_position_embeddings"],
            bos_id=t["bos_token_id"],
            eos_id=t["eos_token_id"],
            pad_id=t["pad_token_id"],
        ),
        prefix + "hidden_act": (t["hidden_act"], Kind.STRING),
        prefix + "tie_word_embeddings": (t["tie_word_embeddings"], Kind.BOOL),
        **f32(
            prefix,
            rms_norm_eps=t["rms_norm_eps"],
            rope_theta=t["rope_theta"] if "rope_theta" in t else t["rope_parameters"]["rope_theta"],
            embedding_multiplier=t["embedding_multiplier"],
            logits_scaling=t["logits_scaling"],
            attention_multiplier=t["attention_multiplier"],
            residual_multiplier=t["residual_multiplier"],
        ),
    }


def _front_end(fields: Fields) -> Metadata:
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
        **u32(
            prefix,
            sample_rate=fields.get("sampling_rate", 16000),
            num_mels=fields.get("n_mels", 80),
            n_fft=fields.get("n_fft", 512),
            win_length=fields.get("win_length", 400),
            hop_length=fields.get("hop_length", 160),
        ),
    }


def tokenizer_metadata(directory: Path) -> Metadata:
    fields = json.loads((directory / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary, added = fields["model"]["vocab"], fields["added_tokens"]
    ids = [*vocabulary.values(), *(token["id"] for token in added)]
    tokens, types = [""] * (max(ids) + 1), [1] * (max(ids) + 1)
    for token, index in vocabulary.items():
        tokens[index] = token
    for token in added:
        tokens[token["id"]] = token["content"]
        types[token["id"]] = 3 if token["special"] else 4
    merges = [m if isinstance(m, str) else " ".join(m) for m in fields["model"]["merges"]]
    named = {token["content"]: token["id"] for token in added}
    prefix = "tokenizer.ggml."
    return {
        prefix + "model": ("gpt2", Kind.STRING),
        prefix + "pre": ("granite", Kind.STRING),
        prefix + "tokens": (tokens, Kind.STRING),
        prefix + "token_type": (types, Kind.INT32),
        prefix + "merges": (merges, Kind.STRING),
        **u32(
            prefix,
            bos_token_id=named["<|end_of_text|>"],
            eos_token_id=named["<|end_of_text|>"],
            padding_token_id=named["<|pad|>"],
        ),
    }


def mel_filterbank(sample_rate: int, n_fft: int, n_mels: int) -> npt.NDArray[np.float32]:
    """HTK triangles of height 1, ``(n_mels, n_fft // 2 + 1)``, computed in float64."""
    top = 2595 * np.log10(1 + sample_rate / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, n_mels + 2) / 2595) - 1)
    bins = np.linspace(0, sample_rate / 2, n_fft // 2 + 1)
    rising = (bins - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - bins) / np.diff(edges)[1:, None]
    return np.maximum(0, np.minimum(rising, falling)).astype(np.float32)


def hann_window(length: int) -> npt.NDArray[np.float32]:
    """The periodic one: a full period has ``length`` samples, and the first is 0."""
    return (np.sin(np.pi * np.arange(length) / length) ** 2).astype(np.float32)


class Tensors(MutableMapping[str, Array]):
    """Tensors by name, read when they are asked for: all of a full-size model have 10 GB."""

    def __init__(self, readers: Mapping[str, Callable[[], Array]]) -> None:
        self._readers = dict(readers)

    def __getitem__(self, name: str) -> Array:
        return self._readers[name]()

    def __setitem__(self, name: str, values: Array) -> None:
        self._readers[name] = lambda: values

    def __delitem__(self, name: str) -> None:
        del self._readers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._readers)

    def __len__(self) -> int:
        return len(self._readers)

    def under(self, renames: Renames) -> Tensors:
        """The same, but for counters, under another dialect's names."""
        found = {}
        for key, reader in self._readers.items():
            name = key
            for pattern, replacement in renames:
                name = re.sub(pattern, replacement, name)
            if not key.endswith("num_batches_tracked"):
                found[name] = reader
        return Tensors(found)


def dialect_tensors(directory: Path) -> Tensors:
    """A checkpoint's weights in float32 under the dialect's names, with filterbank and window."""
    front_end = json.loads((directory / "preprocessor_config.json").read_text(encoding="utf-8"))
    tensors = read_safetensors(directory / "model.safetensors").under(_RENAMES)
    tensors["frontend.mel_filterbank"] = mel_filterbank(
        front_end.get("sampling_rate", 16000),
        front_end.get("n_fft", 512),
        front_end.get("n_mels", 80),
    )
    tensors["frontend.window"] = hann_window(front_end.get("win_length", 400))
    return tensors


def read_safetensors(path: Path) -> Tensors:
    """All tensors in float32; numpy knows bfloat16 only by its bits."""
    data = np.memmap(path, np.uint8, "r")
    start = 8 + int(data[:8].view("<u8")[0])
    header = json.loads(data[8:start].tobytes())
    header.pop("__metadata__", None)

    def read(entry: Fields) -> Array:
        first, end = (start + offset for offset in entry["data_offsets"])
        if entry["dtype"] == "BF16":
            bits = data[first:end].view("<u2").astype(np.uint32)
            values = (bits << np.uint32(16)).view(np.float32)
        else:
            dtype = {"F16": "<f2", "F32": "<f4", "I64": "<i8"}[entry["dtype"]]
            values = data[first:end].view(dtype).astype(np.float32)
        return np.asarray(values).reshape(entry["shape"])

    return Tensors({key: partial(read, entry) for key, entry in header.items()})


def add_metadata(writer: gguf.GGUFWriter, metadata: Metadata) -> None:
    for key, (value, kind) in metadata.items():
        if isinstance(value, list):
            writer.add_key_value(key, value, Kind.ARRAY, kind)
        else:
            writer.add_key_value(key, value, kind)


def write_dialect_file(
    path: Path,
    metadata: Metadata,
    tensors: Mapping[str, Array],
    mixture: Callable[[str], gguf.GGMLQuantizationType] = MIXTURES["f32"],
    *,
    alignment: int | None = None,
    architecture: str = ARCHITECTURE,
) -> Path:
    """Write a file, tensor by tensor; ``mixture`` chooses each one's type by its name."""
    writer = gguf.GGUFWriter(path, architecture)
    if alignment is not None:
        writer.add_custom_alignment(alignment)
    add_metadata(writer, metadata)
    for name, values in tensors.items():
        kind = mixture(name)
        block, size = gguf.GGML_QUANT_SIZES[kind]
        numbers = np.dtype(np.float32)  # what the shape counts, whatever the type is
        writer.add_tensor_info(name, values.shape, numbers, values.size // block * size, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, values in tensors.items():
        writer.write_tensor_data(encode(values, mixture(name)))
    writer.close()
    return path


def encode(values: Array, kind: gguf.GGMLQuantizationType) -> Array:
    """A tensor's contents in a type: gguf-py encodes all but the K-quants."""
    wide = np.ascontiguousarray(values, np.float32)
    if kind in (GGML.F32, GGML.F16):
        return wide.astype({GGML.F32: np.float32, GGML.F16: np.float16}[kind])
    if kind in (GGML.BF16, GGML.Q8_0):
        return np.asarray(gguf.quants.quantize(wide, kind))
    prepare_encoding(kind)
    return encode_rows(kind, wide.reshape(-1, wide.shape[-1]))


def main() -> int:
    parser = argparse.ArgumentParser(description="Write a checkpoint in the other GGUF dialect.")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--mixture", choices=MIXTURES, default="f32")
    options = parser.parse_args()
    metadata, tensors = dialect_metadata(options.checkpoint), dialect_tensors(options.checkpoint)
    path = write_dialect_file(options.output, metadata, tensors, MIXTURES[options.mixture])
    print(f"{path}: {len(tensors)} tensors, {path.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
