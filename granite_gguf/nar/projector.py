"""Windowed Q-Former: captured encoder states to audio tokens of the editor.

    captured [4 D, T] → norms, linear, GELU [hidden, T] → windows of 15 [hidden, 15, W]
        → 3 queries a window: learned + mean of 5 frames → 2 × (cross-attention, feed-forward)
        → [llm_dim, 3 W]

The queries do not attend to one another, and the zeros that fill the last window are attended to.

Source: BLIP-2 (Li et al. 2023), simplified as in the released checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence

from granite_gguf.ggml import Activation, Graph, Tensor, concat
from granite_gguf.graph.layers import Weights, attend, layer_norm, linear, total
from granite_gguf.graph.layout import Layout, Ragged
from granite_gguf.nar.spec import Projector


def build_projector(graph: Graph, w: Weights, p: Projector, lengths: Sequence[int]) -> None:
    """Declare the projector over recordings of these numbers of frames, T in total.

    Input: ``captured`` ``[captures * encoder_dim, T]``. Output: ``projected``
    ``[llm_dim, n_queries * W]``, of W windows, ``ceil(length / block_size)`` for each recording,
    neither scaled nor cut.
    """
    frames = Ragged(lengths)
    captured = graph.input("captured", [p.num_encoder_layers * p.encoder_dim, frames.rows])
    graph.output("projected", project(w, p, captured, frames))


def project(w: Weights, p: Projector, captured: Tensor, frames: Layout) -> Tensor:
    """``captured`` ``[captures * encoder_dim, T]`` to ``[llm_dim, n_queries * W]``."""
    x = concat(
        [
            layer_norm(
                w,
                f"proj.layer_norm.{k}",
                captured.columns(k * p.encoder_dim, p.encoder_dim),
                p.layernorm_eps,
            )
            for k in range(p.num_encoder_layers)
        ],
        0,
        w["proj.layer_proj.weight"],
    )
    x = frames.in_whole(p.block_size, linear(w, "proj.layer_proj", x).gelu_erf())
    windows = x.ne[1] // p.block_size
    queries = _queries(w, p, x, windows)
    keys = x.reshape(p.hidden_size, p.block_size, windows) + w["proj.window_positions"]
    for n in range(p.n_layers):
        block = f"proj.blk.{n}."
        queries = queries + _cross_attention(w, block, p, queries, keys)
        queries = queries + _feed_forward(w, block, p, queries)
    queries = layer_norm(w, "proj.out_norm", queries, p.layernorm_eps)
    return linear(w, "proj.out_linear", queries)


def _queries(w: Weights, p: Projector, x: Tensor, windows: int) -> Tensor:
    """The learned queries plus the mean of the frames each stands for, ``[hidden, 3 W]``."""
    rate = p.downsample_rate
    means = total([x.every(rate, k) for k in range(rate)]) * (1.0 / rate)  # [hidden, 3 W]
    means = means.reshape(p.hidden_size, p.n_queries, windows)
    return (means + w["proj.query"]).reshape(p.hidden_size, p.n_queries * windows)


def _cross_attention(w: Weights, block: str, p: Projector, queries: Tensor, keys: Tensor) -> Tensor:
    windows = keys.ne[2]
    head_dim = p.hidden_size // p.n_heads

    def heads(x: Tensor, length: int) -> Tensor:  # [head_dim, length, heads, windows]
        return x.reshape(head_dim, p.n_heads, length, windows).permute(0, 2, 1, 3)

    q = linear(w, f"{block}attn_q", layer_norm(w, f"{block}attn_norm", queries, p.layernorm_eps))
    flat = keys.reshape(p.hidden_size, p.block_size * windows)
    k = linear(w, f"{block}attn_k", flat)
    v = linear(w, f"{block}attn_v", flat)
    attended = attend(
        heads(q, p.n_queries), heads(k, p.block_size), heads(v, p.block_size), head_dim**-0.5
    )
    return linear(w, f"{block}attn_o", attended)


def _feed_forward(w: Weights, block: str, p: Projector, x: Tensor) -> Tensor:
    x = layer_norm(w, f"{block}mlp_norm", x, p.layernorm_eps)
    return linear(w, f"{block}mlp_fc2", linear(w, f"{block}mlp_fc1", x, Activation.SILU))
