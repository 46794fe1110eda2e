"""Granite layers, the family's language model.

    x [d_model, N] → + attention of the norm → + gated feed-forward of the norm → … → norm → logits

Which rows see which is the caller's to say: without a mask all rows of a recording see one another;
with a cache they see those of earlier runs as well. Queries of several heads share a head of keys.

Source: Granite (transformers' ``granite``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from granite_gguf.ggml import (
    MOST_COLUMNS,
    Norm,
    ShapeError,
    Tensor,
    added_product,
    attend_few,
    attends,
    concat,
    flash_attention,
    mul_mat,
    normed_swiglu,
    products_together,
    swiglu_halves,
)
from granite_gguf.graph.layers import Weights, attend, linear, rms_norm
from granite_gguf.spec.hparams import Granite
from granite_gguf.spec.tensors import GraniteNames


@dataclass(frozen=True)
class Stream:
    """Rows of recordings, one recording after another.

    Attributes:
        x: ``[d_model, N]``.
        positions: I32 ``[N]``, of each row in its recording.
        counts: how many rows are whose.
    """

    x: Tensor
    positions: Tensor
    counts: Sequence[int]


@dataclass(frozen=True)
class Cache:
    """Keys and values of a recording in one layer, in the rows of their positions.

    Attributes:
        keys: F32 or F16 ``[head_dim * kv_heads, capacity]``, of a :class:`granite_gguf.ggml.State`.
        values: like ``keys``.
    """

    keys: Tensor
    values: Tensor

    def add(self, k: Tensor, v: Tensor, at: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Write heads ``[head_dim, heads, rows]`` at some positions.

        Returns:
            The heads of as many positions as the mask has keys, from the first on.
        """
        if mask is None:
            raise ShapeError("a cache without a mask, which tells how much of it is seen")
        seen = mask.ne[0]
        return _remembered(self.keys, k, at, seen), _remembered(self.values, v, at, seen)

    def attend(
        self, g: Granite, q: Tensor, k: Tensor, v: Tensor, at: Tensor, mask: Tensor
    ) -> Tensor:
        """Write few heads at the positions of as many queries, and attend, in one operation.

        Returns:
            ``[head_dim * heads, queries]``.
        """
        if at.below is None or at.below > self.keys.ne[1]:
            raise ShapeError(f"positions below {at.below} in a cache of {self.keys.ne[1]}")
        kept = (_heads(t.beside(q), g.head_dim, mask.ne[0]) for t in (self.keys, self.values))
        asking, keys, values, *new = (t.permute(0, 2, 1, 3) for t in (q, *kept, k, v))
        scale = g.attention_multiplier
        attended = attend_few(asking, keys, values, scale, mask, new=(new[0], new[1], at))
        return attended.reshape(g.head_dim * g.n_heads, q.ne[2])


def granite_layer(
    w: Weights,
    names: GraniteNames,
    n: int,
    g: Granite,
    x: Stream,
    asked: Stream,
    mask: Sequence[Tensor] | None = None,
    cache: Sequence[Cache] | None = None,
) -> Tensor:
    """One layer.

    Args:
        w: the weights.
        names: what they are called.
        n: the layer's number.
        g: the model's numbers.
        x: the rows that have keys and values.
        asked: the rows to return; ``x`` itself, or some of it.
        mask: of each recording F16 ``[keys, asked rows]``, 0 where a row sees a key and minus
            infinity where it does not; by default it sees all.
        cache: of each recording, what earlier rows left behind. The rows of ``x`` are written into
            it, and the mask tells by its keys how much of it is seen, from the first position on.

    Returns:
        ``[d_model, asked rows]``.
    """
    p = names.block.format(n)
    attended = attention(w, p, g, x, asked, mask, cache)
    return _after_attention(w, names, p, g, asked.x, attended)


def _after_attention(
    w: Weights, names: GraniteNames, p: str, g: Granite, x: Tensor, attended: Tensor
) -> Tensor:
    out = w[f"{p}{names.attention_out}.weight"]
    h = added_product(out, attended, g.residual_multiplier, x)
    down = w[f"{p}ffn_down.weight"]
    return added_product(down, gated(w, p, g, h), g.residual_multiplier, h)


@dataclass(frozen=True)
class Bundle:
    """Rows of recordings that are filled up to the same number.

    Attributes:
        x: ``[d_model, rows * count]``.
        positions: I32 ``[rows * count]``, of each row in its recording.
        rows: of each recording.
        count: how many recordings.
    """

    x: Tensor
    positions: Tensor
    rows: int
    count: int


def bundled_layer(
    w: Weights,
    names: GraniteNames,
    n: int,
    g: Granite,
    x: Bundle,
    asked: Bundle,
    mask: Tensor | None,
) -> Tensor:
    """One layer, as :func:`granite_layer` without a cache.

    Args:
        w: the weights.
        names: what they are called.
        n: the layer's number.
        g: the model's numbers.
        x: the rows that have keys and values.
        asked: the rows to return; ``x`` itself, or some of it.
        mask: F16 ``[rows, asked rows, 1, count]``, 0 where a row sees a key and minus infinity
            where it does not; by default it sees all.

    Returns:
        ``[d_model, asked rows * count]``.
    """
    p = names.block.format(n)
    q, k, v = _projected(w, p, g, x, asked)

    def apart(heads: Tensor, of: Bundle) -> Tensor:  # [head_dim, rows, heads, count]
        (_, head, row, _), ne = heads.nb, [*heads.ne[:2], of.rows, of.count]
        return heads.view(ne, [head, row, row * of.rows]).permute(0, 2, 1, 3)

    attended = flash_attention(
        apart(q, asked), apart(k, x), apart(v, x), g.attention_multiplier, mask
    )
    attended = attended.reshape(g.head_dim * g.n_heads, asked.rows * asked.count)
    return _after_attention(w, names, p, g, asked.x, attended)


def attention(
    w: Weights,
    p: str,
    g: Granite,
    x: Stream,
    asked: Stream,
    mask: Sequence[Tensor] | None,
    cache: Sequence[Cache] | None,
) -> Tensor:
    """``softmax(scale * k q + mask) v`` of the normed rows, recording by recording."""

    q, k, v = _projected(w, p, g, x, asked)
    masks: Sequence[Tensor | None] = mask or (None,) * len(x.counts)
    caches: Sequence[Cache | None] = cache or (None,) * len(x.counts)
    parts = zip(
        _by_recording(q, asked.counts),
        _by_recording(k, x.counts),
        _by_recording(v, x.counts),
        x.positions.parts(x.counts),
        masks,
        caches,
        strict=True,
    )
    multiplying = w[f"{p}attn_k.weight"]  # in its way keys and values do
    return concat([_attend(g, multiplying, *one) for one in parts], 1, multiplying)


def joined(names: GraniteNames, g: Granite) -> dict[str, tuple[str, ...]]:
    """Matrices that meet the same rows, see :class:`granite_gguf.spec.derived.DerivedWeights`."""
    found = {}
    for p in map(names.block.format, range(g.n_layers)):
        found[f"{p}attn_qkv.weight"] = tuple(f"{p}attn_{part}.weight" for part in "qkv")
        found[f"{p}ffn_gate_up.weight"] = (f"{p}ffn_gate.weight", f"{p}ffn_up.weight")
    return found


def _projected(
    w: Weights, p: str, g: Granite, x: Stream | Bundle, asked: Stream | Bundle
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries of the asked rows, keys and values of all, ``[head_dim, heads, rows]``."""

    def heads(name: str, x: Tensor, n_heads: int) -> Tensor:
        return linear(w, f"{p}{name}", x).reshape(g.head_dim, n_heads, x.ne[1])

    if asked is x:
        norm = Norm(w[f"{p}attn_norm.weight"], g.rms_norm_eps)
        weights = [w[name] for part in "qkv" if (name := f"{p}attn_{part}.weight") in w]
        if weights and (few := products_together(weights, x.x, norm)) is not None:
            return _turned(g, few, x.positions)
    seen = rms_norm(w, f"{p}attn_norm", x.x, g.rms_norm_eps)
    if asked is x and f"{p}attn_qkv.weight" in w:
        together = linear(w, f"{p}attn_qkv", seen)
        size, row = together.nb[:2]

        def part(first: int, count: int) -> Tensor:
            ne, nb = [g.head_dim, count, together.ne[1]], [size * g.head_dim, row]
            return together.view(ne, nb, first * size * g.head_dim)

        return (
            part(0, g.n_heads).rope_neox(x.positions, g.rope_theta),
            part(g.n_heads, g.n_kv_heads).rope_neox(x.positions, g.rope_theta),
            part(g.n_heads + g.n_kv_heads, g.n_kv_heads),
        )
    asking = seen
    if asked is not x:
        asking = rms_norm(w, f"{p}attn_norm", asked.x, g.rms_norm_eps)
    return (
        heads("attn_q", asking, g.n_heads).rope_neox(asked.positions, g.rope_theta),
        heads("attn_k", seen, g.n_kv_heads).rope_neox(x.positions, g.rope_theta),
        heads("attn_v", seen, g.n_kv_heads),
    )


def _turned(g: Granite, together: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As :func:`_projected`, from queries, keys and values in the same columns."""
    (size, row), rows, turning = together.nb[:2], together.ne[1], g.n_heads + g.n_kv_heads
    strides, head = [size * g.head_dim, row], size * g.head_dim
    turned = together.view([g.head_dim, turning, rows], strides).rope_neox(positions, g.rope_theta)
    v = together.view([g.head_dim, g.n_kv_heads, rows], strides, turning * head)
    q = turned.view([g.head_dim, g.n_heads, rows], turned.nb[1:3])
    k = turned.view([g.head_dim, g.n_kv_heads, rows], turned.nb[1:3], g.n_heads * head)
    return q, k, v


def _attend(
    g: Granite,
    multiplying: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    at: Tensor,
    mask: Tensor | None,
    cache: Cache | None,
) -> Tensor:
    """Of one recording, from heads ``[head_dim, heads, rows]`` to ``[head_dim * heads, rows]``."""
    few = q.ne[2] == k.ne[2] <= MOST_COLUMNS and multiplying.multiplier is not None and attends(q)
    if few and cache is not None and mask is not None:
        return cache.attend(g, q, k, v, at, mask)
    if cache is not None:
        k, v = cache.add(k, v, at, mask)
    q, k, v = (heads.permute(0, 2, 1, 3) for heads in (q, k, v))
    k, v = k.multiplying_as(multiplying), v.multiplying_as(multiplying)
    return attend(q, k, v, g.attention_multiplier, mask)


def _by_recording(x: Tensor, counts: Sequence[int]) -> Iterator[Tensor]:
    """``[head_dim, heads, rows]`` of each recording."""
    start = 0
    for count in counts:
        yield x.view([*x.ne[:2], count], x.nb[1:3], start * x.nb[2])
        start += count


def _remembered(kept: Tensor, x: Tensor, at: Tensor, length: int) -> Tensor:
    """Heads ``[head_dim, heads, length]`` of the first positions, those of ``x`` among them."""
    head_dim, heads, rows, _ = x.ne
    kept = kept.with_rows(x.view([head_dim * heads, rows], [x.nb[2]]), at)
    return _heads(kept, head_dim, length)


def _heads(kept: Tensor, head_dim: int, length: int) -> Tensor:
    """Those of the first positions, ``[head_dim, heads, length]``."""
    size, row = kept.nb[:2]
    return kept.view([head_dim, kept.ne[0] // head_dim, length], [head_dim * size, row])


def gated(w: Weights, p: str, g: Granite, x: Tensor) -> Tensor:
    """``silu(gate x) * up x`` of the normed rows."""
    if f"{p}ffn_gate_up.weight" in w:
        x = rms_norm(w, f"{p}ffn_norm", x, g.rms_norm_eps)
        return swiglu_halves(linear(w, f"{p}ffn_gate_up", x))
    norm = Norm(w[f"{p}ffn_norm.weight"], g.rms_norm_eps)
    return normed_swiglu(w[f"{p}ffn_gate.weight"], w[f"{p}ffn_up.weight"], x, norm)


def granite_head(w: Weights, names: GraniteNames, x: Tensor) -> Tensor:
    """Logits ``[vocabulary, rows]`` of normed rows, not divided by ``logits_scaling``.

    A model without a head of its own has its embedding for it.
    """
    return mul_mat(_head(w, names), x)


def normed_head(w: Weights, names: GraniteNames, g: Granite, x: Tensor) -> Tensor:
    """As :func:`granite_head`, of rows that are normed before."""
    norm = Norm(w[f"{names.norm}.weight"], g.rms_norm_eps)
    few = products_together([_head(w, names)], x, norm)
    return granite_head(w, names, rms_norm(w, names.norm, x, norm.eps)) if few is None else few


def _head(w: Weights, names: GraniteNames) -> Tensor:
    return w[names.head if names.head in w else names.embedding]


def causal_mask(positions: npt.NDArray[np.integer], keys: int) -> npt.NDArray[np.float16]:
    """A mask ``(rows, keys)``: each row sees the keys up to its own position."""
    seen = np.arange(keys) <= np.asarray(positions)[:, None]
    return np.where(seen, 0.0, -np.inf).astype(np.float16)
