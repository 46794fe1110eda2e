"""Small BLIP-2 Q-Formers with seeded weights, and what PyTorch computes with them.

    python -m tests.qformer    write tests/expected/causal/qformer.npz

The file holds what transformers' ``GraniteSpeechEncoderProjector`` makes in float32 of
``encoded(width, LENGTHS[...])``, by ``WIDTH-LENGTH``. Needs the reference extra.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from granite_gguf.arrays import FloatArray
from granite_gguf.speech.spec import Projector
from tests.signals import uniform

EXPECTED = Path(__file__).parent / "expected" / "causal" / "qformer.npz"

LENGTHS = (1, 15, 32, 47)  # a window that is mostly filled up, a whole one, several
WIDTHS = (32, 64)  # the encoder's final state alone, and with a captured layer beside it
LLM_DIM = 40

# Our names and theirs.
_LAYER = {
    "sa_query": "attention.attention.query", "sa_key": "attention.attention.key",
    "sa_value": "attention.attention.value", "sa_out": "attention.output.dense",
    "sa_norm": "attention.output.LayerNorm", "ca_query": "crossattention.attention.query",
    "ca_key": "crossattention.attention.key", "ca_value": "crossattention.attention.value",
    "ca_out": "crossattention.output.dense", "ca_norm": "crossattention.output.LayerNorm",
    "ffn_up": "intermediate_query.dense", "ffn_down": "output_query.dense",
    "ffn_norm": "output_query.LayerNorm",
}  # fmt: skip


def small(encoder_hidden_size: int) -> Projector:
    """A Q-Former's numbers."""
    return Projector(
        n_layers=2,
        d_model=32,
        n_heads=4,
        ff_dim=48,
        encoder_hidden_size=encoder_hidden_size,
        window_size=15,
        downsample_rate=5,
        layer_norm_eps=1e-12,
    )


def names(p: Projector) -> dict[str, str]:
    """Names in our files, by transformers' names."""
    found = {"query": "proj.query"}
    pairs = {"linear": "proj.linear", "qformer.layernorm": "proj.ln"}
    for n in range(p.n_layers):
        pairs |= {f"qformer.encoder.layer.{n}.{t}": f"proj.blk.{n}.{o}" for o, t in _LAYER.items()}
    for theirs, ours in pairs.items():
        found |= {f"{theirs}.{part}": f"{ours}.{part}" for part in ("weight", "bias")}
    return found


def weights(p: Projector) -> dict[str, FloatArray]:
    """By their names in our files, in numpy order."""
    found: dict[str, FloatArray] = {}
    for seed, ours in enumerate(names(p).values()):
        stem = ours.removesuffix(".weight").removesuffix(".bias").rpartition(".")[2]
        seen = p.encoder_hidden_size if stem in ("ca_key", "ca_value") else p.d_model
        shape = {"query": (3, p.d_model), "linear": (LLM_DIM, p.d_model)}.get(stem)
        shape = shape or {"ffn_up": (p.ff_dim, p.d_model), "ffn_down": (p.d_model, p.ff_dim)}.get(
            stem, (p.d_model, seen)
        )
        norm = stem == "ln" or stem.endswith("norm")
        if ours.endswith(".bias") or norm:
            shape = shape[:1]
        numbers = 2 * uniform(int(np.prod(shape)), seed) - 1
        scale = 2.0 / np.sqrt(shape[-1]) if len(shape) > 1 and stem != "query" else 0.3
        found[ours] = (
            (numbers * scale + (norm and ours.endswith("weight"))).astype(np.float32).reshape(shape)
        )
    return found


def encoded(width: int, frames: int) -> FloatArray:
    """An encoder's output ``(frames, width)``."""
    return (3 * uniform(frames * width, 99) - 1.5).astype(np.float32).reshape(frames, width)


def torch_projected(p: Projector, frames: FloatArray) -> FloatArray:
    """What transformers' projector makes of ``(frames, width)``: ``(rows, LLM_DIM)``."""
    import torch
    from transformers import Blip2QFormerConfig, GraniteConfig, GraniteSpeechConfig
    from transformers.models.granite_speech.modeling_granite_speech import (
        GraniteSpeechEncoderProjector,
    )

    qformer = Blip2QFormerConfig(
        hidden_size=p.d_model, num_hidden_layers=p.n_layers, num_attention_heads=p.n_heads,
        intermediate_size=p.ff_dim, encoder_hidden_size=p.encoder_hidden_size,
        cross_attention_frequency=1, layer_norm_eps=p.layer_norm_eps, hidden_act="gelu",
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, use_qformer_text_input=False,
    )  # fmt: skip
    config = GraniteSpeechConfig(
        text_config=GraniteConfig(hidden_size=LLM_DIM, num_attention_heads=4).to_dict(),
        projector_config=qformer.to_dict(),
        window_size=p.window_size, downsample_rate=p.downsample_rate,
    )  # fmt: skip
    model = GraniteSpeechEncoderProjector(config).eval()
    ours = weights(p)
    state: dict[str, Any] = {t: torch.from_numpy(ours[o]) for t, o in names(p).items()}
    state["query"] = state["query"][None]
    model.load_state_dict(state)
    with torch.no_grad():
        found: FloatArray = model(torch.from_numpy(frames)[None])[0].numpy()
    return found


def cases() -> dict[str, FloatArray]:
    return {
        f"{width}-{n}": torch_projected(small(width), encoded(width, n))
        for width in WIDTHS
        for n in LENGTHS
    }


if __name__ == "__main__":
    np.savez_compressed(EXPECTED, **cases())
