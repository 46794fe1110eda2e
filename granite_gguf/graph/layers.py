"""Pieces that every stage is made of.

Shapes are in ggml order: activations ``[width, T]``, weights ``[in, out]``. The comment after a
line gives the shape of its result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from granite_gguf.ggml import Tensor, mul_mat

Weights = Mapping[str, Tensor]

ReadWeight = Callable[[str], npt.NDArray[np.float32]]
"""Reads a tensor of the file by name, decoded to float32, in numpy order."""


def linear(w: Weights, name: str, x: Tensor) -> Tensor:
    """``weight x + bias``, without the bias where the model has none."""
    y = mul_mat(w[f"{name}.weight"], x)
    bias = f"{name}.bias"
    return y + w[bias] if bias in w else y


def layer_norm(w: Weights, name: str, x: Tensor, eps: float) -> Tensor:
    """Normalise each column of ``x`` and apply the learned scale and shift."""
    return x.norm(eps) * w[f"{name}.weight"] + w[f"{name}.bias"]


def rms_norm(w: Weights, name: str, x: Tensor, eps: float) -> Tensor:
    """Divide each column of ``x`` by its root mean square and apply the learned scale."""
    return x.rms_norm(eps) * w[f"{name}.weight"]


def total(terms: Sequence[Tensor]) -> Tensor:
    """The sum of the terms, added from left to right."""
    result = terms[0]
    for term in terms[1:]:
        result = result + term
    return result


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    position_scores: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Unmasked attention, ``softmax(scale * (k q + position_scores(q))) v``, head by head.

    Args:
        q: ``[head_dim, queries, heads, batch]``.
        k: ``[head_dim, keys, kv_heads, batch]``; a key head serves ``heads / kv_heads`` queries'.
        v: like ``k``.
        position_scores: scores ``[keys, queries, heads, batch]`` to add, from the queries.

    Returns:
        ``[head_dim * heads, queries * batch]``.
    """
    head_dim, queries, heads, batch = q.ne
    # Contiguous queries and transposed values let ggml's fast kernels take both products.
    q = q.contiguous_copy()
    scores = mul_mat(k, q)  # [keys, queries, heads, batch]
    if position_scores is not None:
        scores = scores + position_scores(q)
    v = v.permute(1, 0, 2, 3).contiguous_copy()  # [keys, head_dim, kv_heads, batch]
    out = mul_mat(v, scores.softmax(scale))  # [head_dim, queries, heads, batch]
    out = out.permute(0, 2, 1, 3).contiguous_copy()  # [head_dim, heads, queries, batch]
    return out.reshape(head_dim * heads, queries * batch)
