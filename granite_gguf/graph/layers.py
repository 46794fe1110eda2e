"""What every stage is made of.

Shapes are in ggml order: activations ``[width, T]``, weights ``[in, out]``. The comment after a
line gives the shape of its result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from granite_gguf import ggml
from granite_gguf.ggml import (
    F32,
    Activation,
    Norm,
    Tensor,
    added_product,
    attend_few,
    attends,
    concat,
    flash_attention,
    mul_mat,
    normed,
)

_SCORES = 8 << 20  # of attention, at a time: 32 MB
_FEWEST_QUERIES = 128
_MOST_PARTS = 16  # of a recording's queries: each is some operations in every layer
PART_NODES = 12
FEW_QUERIES = 40

Weights = Mapping[str, Tensor]


def linear(w: Weights, name: str, x: Tensor, activation: Activation = Activation.NONE) -> Tensor:
    """``activation(weight x + bias)``, without the bias where the model has none."""
    return ggml.linear(w[f"{name}.weight"], x, w.get(f"{name}.bias"), activation)


def added_linear(w: Weights, name: str, x: Tensor, to: Tensor, scale: float = 1.0) -> Tensor:
    """``to + scale * (weight x + bias)``."""
    return added_product(w[f"{name}.weight"], x, scale, to, w.get(f"{name}.bias"))


def gated_linear(w: Weights, name: str, x: Tensor) -> Tensor:
    """The first half of ``weight x + bias`` times the sigmoid of the second half."""
    return ggml.gated_linear(w[f"{name}.weight"], x, w.get(f"{name}.bias"))


def layer_norm(w: Weights, name: str, x: Tensor, eps: float) -> Tensor:
    """Normalise each column of ``x`` and apply the learned scale and shift."""
    return normed(x, Norm(w[f"{name}.weight"], eps, w[f"{name}.bias"]))


def rms_norm(w: Weights, name: str, x: Tensor, eps: float) -> Tensor:
    """Divide each column of ``x`` by its root mean square and apply the learned scale."""
    return normed(x, Norm(w[f"{name}.weight"], eps))


def total(terms: Sequence[Tensor]) -> Tensor:
    """The sum of the terms, added from left to right."""
    result = terms[0]
    for term in terms[1:]:
        result = result + term
    return result


def queries_together(queries: int, keys: int, heads: int) -> int:
    """How many queries of a recording :func:`attend` takes at a time, which bounds its memory.

    >>> queries_together(300, 300, 16), queries_together(5000, 5000, 16)
    (1744, 313)
    """
    affordable = _SCORES // (keys * heads) // 16 * 16
    return max(_FEWEST_QUERIES, affordable, -(-queries // _MOST_PARTS))


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None = None) -> Tensor:
    """Attention, ``softmax(scale * k q + mask) v``, head by head.

    Args:
        q: ``[head_dim, queries, heads, batch]``.
        k: ``[head_dim, keys, kv_heads, batch]``; a key head serves ``heads / kv_heads`` queries'.
        v: like ``k``.
        mask: F16 ``[keys, queries]``, 0 or minus infinity.

    Where keys and values multiply as weights do, that is faster than ggml's fused attention: one
    operation where a kernel has it, otherwise with memory for the scores of some queries at a time.

    Returns:
        ``[head_dim * heads, queries * batch]``.
    """
    head_dim, queries, heads, batch = q.ne
    # A few queries after others, who are masked, go the same way as one, to the same numbers. There
    # is little to gain by products, which would pack all keys and values for them.
    few = queries == 1 or (mask is not None and queries <= FEW_QUERIES)
    if few and k.multiplier is not None and attends(q):
        attended = attend_few(q, k, v, scale, mask)
        return attended.reshape(head_dim * heads, queries)
    if k.multiplier is None or batch > 1 or few:
        attended = flash_attention(q, k, v, scale, mask)
        return attended.reshape(head_dim * heads, queries * batch)
    whole = k.multiplier.attend(q, k, v, scale, mask, None)
    if whole is not None:
        return whole.reshape(head_dim * heads, queries)
    v = v.permute(1, 0, 2, 3).contiguous_copy().multiplying_as(v)  # [keys, head_dim, kv_heads]
    if k.type != F32:  # as the keys of a cache, which lie apart
        k = k.contiguous_copy().multiplying_as(k)
    together = queries_together(queries, k.ne[1], heads)
    parts = []
    for start in range(0, queries, together):
        count = min(together, queries - start)
        asking = q.view([head_dim, count, heads], q.nb[1:3], start * q.nb[1])
        masked = None if mask is None else mask.rows(start, count)
        out = mul_mat(v, mul_mat(k, asking).softmax(scale, masked))  # [head_dim, queries, heads]
        out = out.permute(0, 2, 1, 3).contiguous_copy()  # [head_dim, heads, queries]
        parts.append(out.reshape(head_dim * heads, count))
    return concat(parts, 1, k)
