"""Bidirectional Granite layers: audio tokens and a hypothesis with slots to an edited text.

    rows [2048, audio + text] → 40 layers → text rows [2048, text] → tied head → logits

One pass, no mask, no cache. The audio rows of the last layer serve only as its keys and values.

Source: Granite (transformers' ``granite``), its causal mask removed.
"""

from __future__ import annotations

from granite_gguf.ggml import I32, Graph, Tensor, mul_mat, swiglu
from granite_gguf.graph.layers import Weights, attend, linear, rms_norm
from granite_gguf.hparams import Editor


def build_editor(graph: Graph, w: Weights, e: Editor, audio_rows: int, text_rows: int) -> None:
    """Declare the layers over ``audio_rows + text_rows`` rows.

    Inputs: ``rows`` ``[d_model, N]``, the embeddings before their multiplier; ``positions`` I32
    ``[N]``. Output: ``state`` ``[d_model, text_rows]``.
    """
    count = audio_rows + text_rows
    x = graph.input("rows", [e.d_model, count]) * e.embedding_multiplier
    positions = graph.input("positions", [count], I32)
    for n in range(e.n_layers):
        first = audio_rows if n == e.n_layers - 1 else 0
        x = granite_layer(w, f"llm.blk.{n}.", e, x, positions, first)
    graph.output("state", x)


def build_editor_head(graph: Graph, w: Weights, e: Editor, rows: int) -> None:
    """Declare the tied head over some text rows, for the vocabulary makes a row long.

    Input: ``state`` ``[d_model, rows]``. Outputs: ``editing_logits``, not divided by
    ``logits_scaling``; ``sums`` ``[1, rows]`` of the normed states, finite where those are.
    """
    x = rms_norm(w, "llm.norm", graph.input("state", [e.d_model, rows]), e.rms_norm_eps)
    graph.output("sums", x.sum_rows())
    graph.output("editing_logits", mul_mat(w["llm.token_embd.weight"], x))


def granite_layer(
    w: Weights, p: str, e: Editor, x: Tensor, positions: Tensor, first: int
) -> Tensor:
    """One layer over all rows, of which those from ``first`` on are returned."""
    normed = rms_norm(w, f"{p}attn_norm", x, e.rms_norm_eps)
    if first:
        x = x.rows(first, x.ne[1] - first)
    x = x + self_attention(w, p, e, normed, positions, first) * e.residual_multiplier
    return x + feed_forward(w, p, e, x) * e.residual_multiplier


def self_attention(
    w: Weights, p: str, e: Editor, x: Tensor, positions: Tensor, first: int
) -> Tensor:
    """Attention of the rows from ``first`` on to all rows, grouped queries, rotary positions."""
    count = x.ne[1]
    asking = x.rows(first, count - first)

    def heads(name: str, x: Tensor, n_heads: int) -> Tensor:  # [head_dim, heads, rows]
        return linear(w, f"{p}{name}", x).reshape(e.head_dim, n_heads, x.ne[1])

    q = heads("attn_q", asking, e.n_heads)
    q = q.rope_neox(positions.view([count - first], [], first * positions.nb[0]), e.rope_theta)
    k = heads("attn_k", x, e.n_kv_heads).rope_neox(positions, e.rope_theta)
    v = heads("attn_v", x, e.n_kv_heads)
    q, k, v = (t.permute(0, 2, 1, 3) for t in (q, k, v))  # [head_dim, rows, heads]
    return linear(w, f"{p}attn_o", attend(q, k, v, e.attention_multiplier))


def feed_forward(w: Weights, p: str, e: Editor, x: Tensor) -> Tensor:
    """``down(silu(gate x) * up x)`` of the normed rows."""
    x = rms_norm(w, f"{p}ffn_norm", x, e.rms_norm_eps)
    return linear(
        w, f"{p}ffn_down", swiglu(linear(w, f"{p}ffn_gate", x), linear(w, f"{p}ffn_up", x))
    )
