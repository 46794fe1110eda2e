"""Checkpoints of the autoregressive model: their sizes, tensors and configurations.

The encoder and the language model are those of the NAR model's checkpoints, without the BPE head,
and with a head of its own where the embedding is none.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from math import sqrt
from pathlib import Path
from types import MappingProxyType

import numpy as np

from tests.support.checkpoint.configs import DTYPE_NAMES, Json
from tests.support.checkpoint.layouts import BATCHES_TRACKED
from tests.support.checkpoint.noise import Init, RandomTensor
from tests.support.checkpoint.safetensors_file import StoredTensor
from tests.support.checkpoint.sizes import (
    FULL,
    SMALL,
    TINY,
    EditorSize,
    EncoderSize,
    ModelSize,
    VocabularySize,
)
from tests.support.checkpoint.weights import (
    GELU_STD,
    PROJECTOR_ATTENTION_LOGIT,
    PROJECTOR_BRANCH,
    editor_tensors,
    embedding_scale,
    encoder_tensors,
)

SPEECH_LAYOUTS = ("base", "plus", "lora", "oldest")

LORA_RANK, LORA_ALPHA = 64, 32

_BASE_TEMPLATE = (
    "{%- for message in messages %}{% if message['role'] == 'user' %}USER: "
    "{{ message['content'] }}\n ASSISTANT:{% else %}{{ message['content'] }}{{ eos_token }}"
    "{% endif %}{% endfor %}"
)
_ROLE_TEMPLATE = (
    "{%- for message in messages %}<|start_of_role|>{{ message['role'] }}<|end_of_role|>"
    "{{ message['content'] }}<|end_of_text|>\n{% endfor %}"
    "{%- if add_generation_prompt %}<|start_of_role|>assistant<|end_of_role|>{% endif %}"
)


@dataclass(frozen=True)
class QFormerSize:
    """BLIP-2's Q-Former."""

    hidden: int  # 1024
    heads: int  # 16
    ffn: int  # 4096
    layers: int = 2
    window: int = 15
    downsample_rate: int = 5


@dataclass(frozen=True)
class SpeechSize:
    """A whole model."""

    encoder: EncoderSize
    projector: QFormerSize
    language: EditorSize
    vocabulary: VocabularySize
    rank: int = LORA_RANK

    @property
    def audio_id(self) -> int:
        return self.vocabulary.total - 1


def _like(size: ModelSize, projector: QFormerSize, rank: int = LORA_RANK) -> SpeechSize:
    """The size of a NAR model with another projector, one captured layer and the audio token."""
    return SpeechSize(
        encoder=replace(size.encoder, captured_layers=(3,)),
        projector=projector,
        language=size.editor,
        vocabulary=replace(size.vocabulary, added=size.vocabulary.added + 1),
        rank=rank,
    )


_TINY = _like(TINY, QFormerSize(hidden=64, heads=4, ffn=128), rank=4)
_SMALL = _like(SMALL, QFormerSize(hidden=256, heads=4, ffn=512))
_FULL = _like(FULL, QFormerSize(hidden=1024, heads=16, ffn=4096))
# The language model's real widths and vocabulary in a fifth of its layers, behind a small encoder.
_WIDE = replace(
    _SMALL,
    language=EditorSize(layers=8, hidden=2048, heads=16, kv_heads=4, ffn=4096),
    vocabulary=_FULL.vocabulary,
)
_FULL_3_2B = replace(
    _FULL,
    encoder=replace(_FULL.encoder, characters=256),
    language=EditorSize(layers=40, hidden=2048, heads=32, kv_heads=8, ffn=8192),
    vocabulary=VocabularySize(bpe=49123, added=37),
)
_FULL_3_8B = replace(
    _FULL_3_2B,
    language=EditorSize(layers=40, hidden=4096, heads=32, kv_heads=8, ffn=12800, logits_scaling=16),
)

SPEECH_SIZES: Mapping[str, SpeechSize] = MappingProxyType(
    {
        "tiny": _TINY,
        "small": _SMALL,
        "wide": _WIDE,
        "full": _FULL,
        "full-3.3-2b": _FULL_3_2B,
        "full-3.3-8b": _FULL_3_8B,
    }
)


def speech_tensors(layout: str, size: SpeechSize, seed: int, dtype: str) -> Iterator[StoredTensor]:
    """Every tensor of ``model.safetensors``, floats as ``dtype``, in no particular order."""
    name = _oldest_name if layout == "oldest" else str
    for tensor in _floats(layout, size):
        yield StoredTensor(name(tensor.name), dtype, tensor.shape, partial(tensor.parts, seed))
    for n in range(size.encoder.layers):
        key = f"encoder.layers.{n}.conv.batch_norm.num_batches_tracked"
        yield StoredTensor(name(key), "I64", (), lambda: [np.array(BATCHES_TRACKED)])


def _oldest_name(name: str) -> str:
    """What the code of 3.2 calls a tensor that is called otherwise since.

    `rnn_tr` is a list of the input's layer and the blocks. A feed-forward is Scale(fn=PreNorm(norm,
    fn=FeedForward(net))), attention PreNorm(norm, fn), and each `net` a sequence: of linear, SiLU,
    dropout, linear, dropout; of norm, permutation, pointwise, GLU, depthwise, BatchNorm, SiLU,
    pointwise, permutation, dropout.
    """
    if name.startswith("encoder.input_linear."):
        return name.replace("input_linear", "rnn_tr.0")
    block = re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)", name)
    if block is None:
        return name
    part = block[2]
    for pattern, oldest in (
        (r"^(ff\d)\.pre_norm", r"\1.fn.norm"),
        (r"^(ff\d)\.up_proj", r"\1.fn.fn.net.0"),
        (r"^(ff\d)\.down_proj", r"\1.fn.fn.net.3"),
        (r"^attn\.(to_|rel_)", r"attn.fn.\1"),
        (r"^attn\.pre_norm", "attn.norm"),
        (r"^conv\.norm", "conv.net.0"),
        (r"^conv\.up_conv", "conv.net.2"),
        (r"^conv\.depth_conv", "conv.net.4"),
        (r"^conv\.batch_norm", "conv.net.5"),
        (r"^conv\.down_conv", "conv.net.7"),
    ):
        part = re.sub(pattern, oldest, part)
    return f"encoder.rnn_tr.{int(block[1]) + 1}.{part}"


def _floats(layout: str, size: SpeechSize) -> Iterator[RandomTensor]:
    for tensor in encoder_tensors(size.encoder, size.vocabulary):
        if not tensor.name.startswith("encoder.out_bpe"):
            yield tensor
    yield from _projector_tensors(size, frame=frame_width(layout, size))
    for tensor in editor_tensors(size.language, size.vocabulary):
        yield replace(tensor, name=tensor.name.replace("llm.", "language_model.model.", 1))
    if layout == "base":
        shape = (size.vocabulary.total, size.language.hidden)
        init = Init(2 / sqrt(size.language.hidden))
        yield RandomTensor("language_model.lm_head.weight", shape, init)


def frame_width(layout: str, size: SpeechSize) -> int:
    """How many numbers of each frame the projector reads."""
    captured = len(size.encoder.captured_layers) if layout == "plus" else 0
    return (captured + 1) * size.encoder.hidden


def _linear(name: str, rows: int, width: int, std: float) -> Iterator[RandomTensor]:
    yield RandomTensor(f"{name}.weight", (rows, width), Init(std / sqrt(width)))
    yield RandomTensor(f"{name}.bias", (rows,), Init(0.05))


def _norm(name: str, width: int) -> Iterator[RandomTensor]:
    yield RandomTensor(f"{name}.weight", (width,), Init(0.1, mean=1.0))
    yield RandomTensor(f"{name}.bias", (width,), Init(0.05))


def _projector_tensors(size: SpeechSize, frame: int) -> Iterator[RandomTensor]:
    p = size.projector
    hidden, query = p.hidden, sqrt(PROJECTOR_ATTENTION_LOGIT)
    queries = (1, p.window // p.downsample_rate, hidden)
    yield RandomTensor("projector.query", queries, Init(0.5))
    yield from _norm("projector.qformer.layernorm", hidden)
    for n in range(p.layers):
        at = f"projector.qformer.encoder.layer.{n}"
        for attention, width in (("attention", hidden), ("crossattention", frame)):
            inner = f"{at}.{attention}.attention"
            yield from _linear(f"{inner}.query", hidden, hidden, query)
            yield from _linear(f"{inner}.key", hidden, width, query)
            yield from _linear(f"{inner}.value", hidden, width, 1.0)
            yield from _linear(f"{at}.{attention}.output.dense", hidden, hidden, PROJECTOR_BRANCH)
            yield from _norm(f"{at}.{attention}.output.LayerNorm", hidden)
        yield from _linear(f"{at}.intermediate_query.dense", p.ffn, hidden, 1.0)
        yield from _linear(f"{at}.output_query.dense", hidden, p.ffn, PROJECTOR_BRANCH / GELU_STD)
        yield from _norm(f"{at}.output_query.LayerNorm", hidden)
    # Audio rows are multiplied as text rows are, and come out at their scale.
    scale = embedding_scale(size.language, size.vocabulary) / size.language.embedding_multiplier
    yield from _linear("projector.linear", size.language.hidden, hidden, scale)


def draft_head_tensors(size: SpeechSize, seed: int, dtype: str) -> Iterator[StoredTensor]:
    """The tensors of ``out_llm.safetensors``: one output more than tokens, the first the blank."""
    rows, width = size.vocabulary.total, size.encoder.hidden
    for name, shape, init in (
        ("weight", (rows, width), Init(2.5 / sqrt(width))),
        ("bias", (rows,), Init(0.1, pinned={0: 3.0})),
    ):
        tensor = RandomTensor(f"out_llm.{name}", shape, init)
        yield StoredTensor(name, dtype, shape, partial(tensor.parts, seed))


def adapter_tensors(
    size: SpeechSize, seed: int, prefix: str = "language_model.model."
) -> Iterator[StoredTensor]:
    """The tensors of ``adapter_model.safetensors``, F32; ``prefix`` follows PEFT's own."""
    g = size.language
    rows = {"q_proj": g.hidden, "v_proj": g.kv_heads * g.head_dim}
    for n in range(g.layers):
        for target, out in rows.items():
            at = f"base_model.model.{prefix}layers.{n}.self_attn.{target}"
            for side, shape in (("A", (size.rank, g.hidden)), ("B", (out, size.rank))):
                tensor = RandomTensor(f"{at}.lora_{side}.weight", shape, Init(0.5 / sqrt(shape[1])))
                yield StoredTensor(tensor.name, "F32", shape, partial(tensor.parts, seed))


def write_speech_configs(directory: Path, layout: str, size: SpeechSize, dtype: str) -> None:
    """config.json, the front end's, the generation's and the adapter's, and the chat template."""
    plus, lora = layout == "plus", layout in ("lora", "oldest")
    _write(directory / "config.json", _config(layout, size, DTYPE_NAMES[dtype]))
    if plus:
        _write(directory / "processor_config.json", {"processor_class": "GraniteSpeechProcessor"})
    else:
        front_end = {"feature_extractor_type": "GraniteSpeechFeatureExtractor"} | _front_end()
        _write(directory / "preprocessor_config.json", front_end)
    if layout != "base":
        ids = {"eos_token_id": size.vocabulary.eos_id, "pad_token_id": size.vocabulary.pad_id}
        _write(directory / "generation_config.json", {"_from_model_config": True, **ids})
    if lora:
        adapter = {
            "peft_type": "LORA",
            "r": size.rank,
            "lora_alpha": LORA_ALPHA,
            "target_modules": ["q_proj", "v_proj"],
            "use_rslora": False,
            "bias": "none",
        }
        _write(directory / "adapter_config.json", adapter)
    template = _BASE_TEMPLATE if layout == "base" else _ROLE_TEMPLATE
    (directory / "chat_template.jinja").write_text(template, encoding="utf-8")


def _front_end() -> Json:
    mel = {"hop_length": 160, "n_fft": 512, "n_mels": 80, "sample_rate": 16000, "win_length": 400}
    return {"melspec_kwargs": mel, "sampling_rate": 16000}


def _config(layout: str, size: SpeechSize, dtype: str) -> Json:
    plus, lora = layout == "plus", layout in ("lora", "oldest")
    code = "granite_speech_plus" if plus else "granite_speech"
    e, p, g = size.encoder, size.projector, size.language
    kind = "Plus" if plus else ""
    config: Json = {
        "architectures": [f"GraniteSpeech{kind}ForConditionalGeneration"],
        "audio_token_index": size.audio_id,
        "downsample_rate": p.downsample_rate,
        "dtype": dtype,
        "encoder_config": {
            "context_size": e.context_size,
            "conv_expansion_factor": e.conv_expansion,
            "conv_kernel_size": e.conv_kernel,
            "dim_head": e.head_dim,
            "dropout": 0.1,
            "feedforward_mult": e.feedforward_mult,
            "hidden_dim": e.hidden,
            "input_dim": e.input_dim,
            "max_pos_emb": e.max_pos_emb,
            "model_type": f"{code}_encoder",
            "num_heads": e.heads,
            "num_layers": e.layers,
            "output_dim": e.characters,
        },
        "has_lora_adapter": lora,
        "initializer_range": 0.02,
        "model_type": code,
        "projector_config": {
            "attention_probs_dropout_prob": 0.1,
            "cross_attention_frequency": 1,
            "encoder_hidden_size": frame_width(layout, size),
            "hidden_act": "gelu",
            "hidden_dropout_prob": 0.1,
            "hidden_size": p.hidden,
            "initializer_range": 0.02,
            "intermediate_size": p.ffn,
            "layer_norm_eps": 1e-12,
            "max_position_embeddings": 2048,
            "model_type": "blip_2_qformer",
            "num_attention_heads": p.heads,
            "num_hidden_layers": p.layers,
            "use_qformer_text_input": False,
            "vocab_size": 30522,
        },
        "text_config": {
            "architectures": ["GraniteForCausalLM"],
            "attention_bias": False,
            "attention_dropout": 0.0,
            "attention_multiplier": g.attention_multiplier,
            "bos_token_id": size.vocabulary.eos_id,
            "dtype": "float32",
            "embedding_multiplier": float(g.embedding_multiplier),
            "eos_token_id": size.vocabulary.eos_id,
            "hidden_act": "silu",
            "hidden_size": g.hidden,
            "intermediate_size": g.ffn,
            "logits_scaling": float(g.logits_scaling),
            "max_position_embeddings": 4096,
            "mlp_bias": False,
            "model_type": "granite",
            "num_attention_heads": g.heads,
            "num_hidden_layers": g.layers,
            "num_key_value_heads": g.kv_heads,
            "pad_token_id": size.vocabulary.pad_id,
            "residual_multiplier": g.residual_multiplier,
            "rms_norm_eps": 1e-05,
            "tie_word_embeddings": layout != "base",
            "use_cache": True,
            "vocab_size": size.vocabulary.total,
        },
        "window_size": p.window,
    }
    if plus:
        config["encoder_config"]["cat_hidden_layers"] = list(e.captured_layers)
        rope = {"rope_theta": 10000.0, "rope_type": "default"}
        config["text_config"]["rope_parameters"] = rope
    else:
        config["tie_word_embeddings"] = lora
        config["text_config"]["rope_theta"] = 10_000_000.0 if lora else 10000.0
    return _oldest_config(config) if layout == "oldest" else config


def _oldest_config(config: Json) -> Json:
    """Of 3.2, whose code is in its repository."""
    projector = config["projector_config"]
    projector |= {name: config.pop(name) for name in ("window_size", "downsample_rate")}
    projector |= {"model_type": "granite_speech_qformer"}
    projector["llm_dim"] = config["text_config"]["hidden_size"]
    del config["encoder_config"]["max_pos_emb"]
    names = {"AutoConfig": "configuration_granite_speech.GraniteSpeechConfig"}
    return config | {"auto_map": names}


def _write(path: Path, content: Json) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
