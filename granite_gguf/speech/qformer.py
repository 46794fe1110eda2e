"""BLIP-2 Q-Former: encoder output to audio rows of a causal language model.

    encoded [E, T] → windows of 15 [E, 15, W] ──────────────────────┐ keys and values
    learned queries [D, 3] → LN → 2 × (self-attention, LN, cross-attention, LN, feed-forward, LN)
        → linear [llm_dim, 3 W]

The norms stand behind the additions, and none follows the last layer. The zeros that fill the last
window are attended to. There are no window positions, and nothing of the frames is added to the
queries: up to the first cross-attention they are the same in every window.

Source: BLIP-2 (Li et al. 2023), as in transformers' ``granite_speech``.
"""

from __future__ import annotations

from collections.abc import Sequence

from granite_gguf.ggml import Graph, Tensor, concat
from granite_gguf.graph.layers import Weights, attend, layer_norm, linear
from granite_gguf.speech.spec import Projector


def audio_rows(p: Projector, frames: int) -> int:
    """Audio rows of a recording: all queries of every window, the last one's too."""
    return -(-frames // p.window_size) * p.n_queries


def build_qformer(graph: Graph, w: Weights, p: Projector, lengths: Sequence[int]) -> None:
    """Declare the projector over recordings of these numbers of frames, T in total.

    Input: ``encoded`` ``[encoder_hidden_size, T]``, one recording after another. Output:
    ``projected`` ``[llm_dim, 3 W]``, before the language model's multiplier, with
    :func:`audio_rows` of each recording.
    """
    x = graph.input("encoded", [p.encoder_hidden_size, sum(lengths)])
    x = concat([part.pad_rows(-part.ne[1] % p.window_size) for part in x.divided(lengths)], 1)
    windows = x.ne[1] // p.window_size
    learned = w["proj.query"].beside(x).reshape(p.d_model, p.n_queries)
    q = layer_norm(w, "proj.ln", learned, p.layer_norm_eps)
    for n in range(p.n_layers):
        block = f"proj.blk.{n}."
        among = windows if n else 1  # before they have seen a window, queries differ in none
        q = _with_attention(w, f"{block}sa", p, q, q, among)
        if not n:
            q = q.repeated(windows).reshape(p.d_model, p.n_queries * windows)
        q = _with_attention(w, f"{block}ca", p, q, x, windows)
        inner = linear(w, f"{block}ffn_up", q).gelu_erf()
        q = q + linear(w, f"{block}ffn_down", inner)
        q = layer_norm(w, f"{block}ffn_norm", q, p.layer_norm_eps)
    graph.output("projected", linear(w, "proj.linear", q))


def _with_attention(
    w: Weights, name: str, p: Projector, q: Tensor, seen: Tensor, windows: int
) -> Tensor:
    """``LN(q + attention of q to the rows seen in its window)``, ``[d_model, queries]``."""

    def heads(part: str, x: Tensor) -> Tensor:  # [head_dim, rows of a window, heads, windows]
        x = linear(w, f"{name}_{part}", x)
        return x.reshape(p.head_dim, p.n_heads, x.ne[1] // windows, windows).permute(0, 2, 1, 3)

    attended = attend(heads("query", q), heads("key", seen), heads("value", seen), p.head_dim**-0.5)
    return layer_norm(w, f"{name}_norm", q + linear(w, f"{name}_out", attended), p.layer_norm_eps)
