"""Conformer encoder with self-conditioned CTC: stacked log-mel frames to captured states.

    mel [160, T] → input → block 1 … block 8 → + feedback → … block 16 → final [D, T]
                     │                │ characters: posterior, blank probability [1, T]
                     └── captured layers 4, 8, 12, 16 → [4 D, T]

There is no subsampling, no attention over the whole utterance and no positional encoding but the
relative distances inside a block of frames.

Sources: Conformer (Gulati et al. 2020), relative positions (Shaw et al. 2018), self-conditioned
CTC (Nozaki and Komatsu 2021), as in transformers' ``granite_speech``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from granite_gguf.arrays import FloatArray
from granite_gguf.ggml import Activation, Graph, Tensor, concat, mul_mat
from granite_gguf.graph.layers import Weights, added_linear, gated_linear, layer_norm, linear
from granite_gguf.graph.layout import Blocks, Layout, Ragged
from granite_gguf.spec.derived import DerivedWeights, ReadWeight
from granite_gguf.spec.hparams import LAYER_NORM_EPS, Encoder

_DISTANCE = "attn_distance"
_ROW_MULTIPLE = 16  # rows of a weight that ggml's fastest float kernels work on at a time


def derived_weights(e: Encoder, read: ReadWeight) -> DerivedWeights:
    """Small weights computed once at loading, in the order the graph reads them.

    Per block: ``attn_distance``, the rows of the relative positions from the largest distance
    ``context_size - 1`` down to its negative, then zeros; ``conv_taps``, the depthwise taps times
    the BatchNorm's scale, channels contiguous; ``conv_shift``, what the BatchNorm adds.
    """
    derived = DerivedWeights()
    with np.errstate(all="ignore"):  # what is not finite is refused where the weights are placed
        for n in range(e.n_layers):
            p = f"enc.blk.{n}."
            _derive_block(e, p, read, derived)
            derived.joined[f"{p}attn_qkv.weight"] = (f"{p}attn_q.weight", f"{p}attn_kv.weight")
    return derived


def _derive_block(e: Encoder, p: str, read: ReadWeight, derived: DerivedWeights) -> None:
    near = nearest_positions(e, read(f"{p}attn_rel_pos.weight"))
    rows = _round_up(2 * e.context_size - 1) + _ROW_MULTIPLE
    distance = np.zeros((rows, e.head_dim), np.float32)
    distance[: len(near)] = near[::-1]
    derived.arrays[f"{p}{_DISTANCE}"] = distance

    variance = read(f"{p}conv_bn.running_var").astype(np.float64)
    scale = read(f"{p}conv_bn.weight") / np.sqrt(variance + LAYER_NORM_EPS)
    shift = read(f"{p}conv_bn.bias") - read(f"{p}conv_bn.running_mean") * scale
    taps = read(f"{p}conv_dw.weight").reshape(e.conv_dim, e.conv_kernel)
    derived.arrays[f"{p}conv_taps"] = (taps * scale[:, None]).T.astype(np.float32)
    derived.arrays[f"{p}conv_shift"] = shift.astype(np.float32)


def nearest_positions(e: Encoder, positions: FloatArray) -> FloatArray:
    """Of ``(2 * max_pos_emb + 1, head_dim)`` those of distances in a block, the least first."""
    reach = e.context_size - 1
    return positions[e.max_pos_emb - reach : e.max_pos_emb + reach + 1]


def _round_up(n: int) -> int:
    return -(-n // _ROW_MULTIPLE) * _ROW_MULTIPLE


@dataclass(frozen=True)
class Encoded:
    """What the encoder makes of T frames.

    Attributes:
        captured: the captured layers side by side, ``[captures * D, T]``.
        final: ``[D, T]``.
        blank: the blank's probability at the self-conditioning layer, ``[1, T]``, not contiguous.
        logits: the character head on the final state, ``[characters, T]``.
    """

    captured: Tensor
    final: Tensor
    blank: Tensor
    logits: Tensor


def build_encoder(graph: Graph, w: Weights, e: Encoder, lengths: Sequence[int]) -> None:
    """Declare the encoder over recordings of these numbers of frames, T in total.

    Input: ``mel`` ``[input_dim, T]``, one recording after another. Outputs: ``captured``
    ``[captures * D, T]``, ``final`` ``[D, T]`` and ``blank`` ``[1, T]``, the blank's probability.
    Taps: ``encoder_layer_K``, from 0, the embedded input, on; and ``encoder_logits``, the character
    head on the final state.
    """
    frames = Ragged(lengths)
    encoded = encode(graph, w, e, graph.input("mel", [e.input_dim, frames.rows]), frames)
    graph.tap("encoder_logits", encoded.logits)
    graph.output("captured", encoded.captured)
    graph.output("final", encoded.final)
    graph.output("blank", encoded.blank)


def encode(graph: Graph, w: Weights, e: Encoder, mel: Tensor, frames: Layout) -> Encoded:
    """The encoder over ``mel`` ``[input_dim, T]``; its taps are the layers of
    :func:`build_encoder`.
    """
    x = linear(w, "enc.input", mel)
    captures = {0: x}
    for n in range(1, e.n_layers + 1):
        x = conformer_block(w, f"enc.blk.{n - 1}.", e, x, frames)
        captures[n] = x
        if n == e.self_conditioning_layer:
            posterior = linear(w, "enc.ctc_out", x).softmax()  # [characters, T]
            x = added_linear(w, "enc.ctc_mid", posterior, x)
            if not e.capture_before_feedback:
                captures[n] = x
    captures = {k: graph.tap(f"encoder_layer_{k}", state) for k, state in captures.items()}
    states = [captures[k] for k in e.captured_blocks]
    captured = concat(states, 0, w["enc.ctc_out.weight"])
    return Encoded(captured, x, posterior.columns(0, 1), linear(w, "enc.ctc_out", x))


def conformer_block(w: Weights, p: str, e: Encoder, x: Tensor, frames: Layout) -> Tensor:
    """One block: half a feed-forward, attention, convolution, half a feed-forward, norm.

    Each of these returns what it was given and what it adds. Attention and convolution know where a
    recording ends; all the rest is frame by frame.
    """
    x = half_feed_forward(w, f"{p}ff1", x)
    x = block_attention(w, p, e, x, frames)
    x = convolution(w, p, x, frames)
    x = half_feed_forward(w, f"{p}ff2", x)
    return layer_norm(w, f"{p}post_norm", x, LAYER_NORM_EPS)


def half_feed_forward(w: Weights, name: str, x: Tensor) -> Tensor:
    """Norm, widen, SiLU, narrow, and half of it."""
    y = layer_norm(w, f"{name}_norm", x, LAYER_NORM_EPS)
    y = linear(w, f"{name}_up", y, Activation.SILU)
    return added_linear(w, f"{name}_down", y, x, 0.5)


def convolution(w: Weights, p: str, x: Tensor, frames: Layout) -> Tensor:
    """Norm, gated pointwise, depthwise with BatchNorm and SiLU, pointwise."""
    y = layer_norm(w, f"{p}conv_norm", x, LAYER_NORM_EPS)
    y = gated_linear(w, f"{p}conv_up", y)  # [conv_dim, T]
    y = frames.convolve(w[f"{p}conv_taps"], y, w[f"{p}conv_shift"])
    return added_linear(w, f"{p}conv_down", y, x)


def block_attention(w: Weights, p: str, e: Encoder, x: Tensor, frames: Layout) -> Tensor:
    """Attention inside independent blocks of frames, with relative positions."""
    y = layer_norm(w, f"{p}attn_norm", x, LAYER_NORM_EPS)
    # Queries, keys and values, each [heads * head_dim, T], the last two in one matrix or all.
    if f"{p}attn_qkv.weight" in w:
        q = kv = linear(w, f"{p}attn_qkv", y)
    else:
        q, kv = linear(w, f"{p}attn_q", y), linear(w, f"{p}attn_kv", y)
    k = 1 if q is kv else 0
    distances = w[f"{p}{_DISTANCE}"].beside(x)
    attended = [
        _attend(
            _heads(q, e, block, 0),
            _heads(kv, e, block, k),
            _heads(kv, e, block, k + 1),
            _distances(distances, e.context_size, block.length),
            block.mask,
        )
        for block in frames.blocks(e.context_size)
    ]
    return added_linear(w, f"{p}attn_out", frames.join(attended, distances), x)


def _attend(q: Tensor, k: Tensor, v: Tensor, distances: Tensor, mask: Tensor | None) -> Tensor:
    """``softmax((k q + distances q) / sqrt(head_dim) + mask) v``, head by head, block by block.

    Args:
        q: ``[head_dim, frames, heads, blocks]``.
        k: like ``q``.
        v: like ``q``.
        distances: ``[head_dim, rows]``, a row for each distance.
        mask: F16 ``[keys, queries, 1, blocks]``, 0 or minus infinity.

    Returns:
        ``[head_dim * heads, frames * blocks]``.
    """
    head_dim, frames, heads, blocks = q.ne
    if distances.multiplier is not None:
        attended = distances.multiplier.attend(q, k, v, head_dim**-0.5, mask, distances)
        if attended is not None:
            return attended.reshape(head_dim * heads, frames * blocks)
    # Contiguous queries and transposed values let ggml's fast kernels take both products.
    q = q.contiguous_copy()
    scores = mul_mat(k.multiplying_as(distances), q) + _position_scores(distances, q)
    # [keys, queries, heads, blocks]
    v = v.permute(1, 0, 2, 3).contiguous_copy()  # [keys, head_dim, heads, blocks]
    out = mul_mat(v.multiplying_as(distances), scores.softmax(head_dim**-0.5, mask))
    # [head_dim, queries, heads, blocks]
    out = out.permute(0, 2, 1, 3).contiguous_copy()  # [head_dim, heads, queries, blocks]
    return out.reshape(head_dim * heads, frames * blocks)


def _heads(x: Tensor, e: Encoder, at: Blocks, part: int) -> Tensor:
    """The heads of some blocks, ``[head_dim, length, heads, blocks]``, from ``[parts * D, T]``."""
    head = x.nb[0] * e.head_dim
    return x.view(
        [e.head_dim, at.length, e.n_heads, at.count],
        [x.nb[1], head, x.nb[1] * at.step],
        at.start * x.nb[1] + part * e.n_heads * head,
    )


def _distances(distances: Tensor, context: int, length: int) -> Tensor:
    """The rows of the distances inside blocks of ``length`` frames, and some beyond."""
    return distances.rows(context - length, _round_up(2 * length - 1))


def _position_scores(distances: Tensor, q: Tensor) -> Tensor:
    """Scores ``[keys, queries, heads, blocks]`` of each query with the position of each key.

    The queries are multiplied with every distance once. The row of query ``i`` then holds the
    scores of distances ``frames - 1`` downwards, and key ``j``, at distance ``i - j``, stands at
    ``frames - 1 - i + j``: a view whose rows start one element earlier each time reads them out.
    """
    width, frames, heads, blocks = q.ne
    by_distance = mul_mat(distances, q.reshape(width, frames * heads * blocks))
    by_distance = by_distance.reshape(distances.ne[1], frames, heads, blocks)
    size, row, head, block = by_distance.nb
    return by_distance.view(
        [frames, frames, heads, blocks], [row - size, head, block], (frames - 1) * size
    )
