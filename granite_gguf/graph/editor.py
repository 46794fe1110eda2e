"""Bidirectional Granite layers: audio tokens and a hypothesis with slots to an edited text.

    rows [2048, audio + text] → 40 layers → text rows [2048, text] → tied head → logits

One pass, no mask, no cache. The audio rows of the last layer serve only as its keys and values.

Source: Granite (transformers' ``granite``), its causal mask removed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from granite_gguf.ggml import I32, Graph, Tensor, concat, mul_mat, swiglu
from granite_gguf.graph.layers import Weights, attend, linear, rms_norm
from granite_gguf.spec.nar import Editor


@dataclass(frozen=True)
class EditorRows:
    """Rows of a recording: its audio tokens, then its text."""

    audio: int
    text: int

    @property
    def count(self) -> int:
        return self.audio + self.text


def build_editor(graph: Graph, w: Weights, e: Editor, recordings: Sequence[EditorRows]) -> None:
    """Declare the layers over the rows of recordings, N in total.

    Inputs: ``rows`` ``[d_model, N]``, the embeddings before their multiplier, one recording after
    another; ``positions`` I32 ``[N]`` and ``text_positions`` I32, those of the text rows alone.
    Output: ``state`` ``[d_model, text rows]``.
    """
    counts, texts = [r.count for r in recordings], [r.text for r in recordings]
    x = graph.input("rows", [e.d_model, sum(counts)]) * e.embedding_multiplier
    positions = graph.input("positions", [sum(counts)], I32)
    every = _Asking(lambda x: x, positions, counts)
    text = _Asking(
        lambda x: concat(
            [
                part.rows(r.audio, r.text)
                for part, r in zip(x.divided(counts), recordings, strict=True)
            ],
            1,
        ),
        graph.input("text_positions", [sum(texts)], I32),
        texts,
    )
    for n in range(e.n_layers):
        asking = text if n == e.n_layers - 1 else every
        x = granite_layer(w, f"llm.blk.{n}.", e, x, every, asking)
    graph.output("state", x)


def build_editor_head(graph: Graph, w: Weights, e: Editor, rows: int) -> None:
    """Declare the tied head over some text rows, for the vocabulary makes a row long.

    Input: ``state`` ``[d_model, rows]``. Outputs: ``editing_logits``, not divided by
    ``logits_scaling``; ``sums`` ``[1, rows]`` of the normed states, finite where those are.
    """
    x = rms_norm(w, "llm.norm", graph.input("state", [e.d_model, rows]), e.rms_norm_eps)
    graph.output("sums", x.sum_rows())
    graph.output("editing_logits", mul_mat(w["llm.token_embd.weight"], x))


@dataclass(frozen=True)
class _Asking:
    """The rows that a layer returns: how to take them, their positions, how many a recording."""

    of: Callable[[Tensor], Tensor]
    positions: Tensor
    counts: Sequence[int]


def granite_layer(
    w: Weights, p: str, e: Editor, x: Tensor, every: _Asking, asking: _Asking
) -> Tensor:
    """One layer over all rows, of which some are returned."""
    normed = rms_norm(w, f"{p}attn_norm", x, e.rms_norm_eps)
    attended = self_attention(w, p, e, normed, every, asking)
    x = asking.of(x) + attended * e.residual_multiplier
    return x + feed_forward(w, p, e, x) * e.residual_multiplier


def self_attention(
    w: Weights, p: str, e: Editor, x: Tensor, every: _Asking, asking: _Asking
) -> Tensor:
    """Attention of some rows to all of their recording, grouped queries, rotary positions."""

    def heads(name: str, x: Tensor, n_heads: int) -> Tensor:  # [head_dim, heads, rows]
        return linear(w, f"{p}{name}", x).reshape(e.head_dim, n_heads, x.ne[1])

    q = heads("attn_q", asking.of(x), e.n_heads).rope_neox(asking.positions, e.rope_theta)
    k = heads("attn_k", x, e.n_kv_heads).rope_neox(every.positions, e.rope_theta)
    v = heads("attn_v", x, e.n_kv_heads)
    weight = w[f"{p}attn_k.weight"]
    attended = [
        attend(
            q_part,
            k_part.multiplying_as(weight),
            v_part.multiplying_as(weight),
            e.attention_multiplier,
        )
        for q_part, k_part, v_part in zip(
            _by_recording(q, asking.counts),
            _by_recording(k, every.counts),
            _by_recording(v, every.counts),
            strict=True,
        )
    ]
    return linear(w, f"{p}attn_o", concat(attended, 1))


def _by_recording(x: Tensor, counts: Sequence[int]) -> Iterator[Tensor]:
    """``[head_dim, rows, heads]`` of each recording, from ``[head_dim, heads, rows]`` of all."""
    start = 0
    for count in counts:
        part = x.view([*x.ne[:2], count], x.nb[1:3], start * x.nb[2])
        yield part.permute(0, 2, 1, 3)
        start += count


def feed_forward(w: Weights, p: str, e: Editor, x: Tensor) -> Tensor:
    """``down(silu(gate x) * up x)`` of the normed rows."""
    x = rms_norm(w, f"{p}ffn_norm", x, e.rms_norm_eps)
    return linear(
        w, f"{p}ffn_down", swiglu(linear(w, f"{p}ffn_gate", x), linear(w, f"{p}ffn_up", x))
    )
