"""Pieces that every stage is made of.

Shapes are in ggml order: activations ``[width, T]``, weights ``[in, out]``. The comment after a
line gives the shape of its result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from granite_gguf import ggml
from granite_gguf.ggml import Activation, Tensor, flash_attention

Weights = Mapping[str, Tensor]

ReadWeight = Callable[[str], npt.NDArray[np.float32]]
"""Reads a tensor of the file by name, decoded to float32, in numpy order."""


def linear(w: Weights, name: str, x: Tensor, activation: Activation = Activation.NONE) -> Tensor:
    """``activation(weight x + bias)``, without the bias where the model has none."""
    return ggml.linear(w[f"{name}.weight"], x, w.get(f"{name}.bias"), activation)


def gated_linear(w: Weights, name: str, x: Tensor) -> Tensor:
    """The first half of ``weight x + bias`` times the sigmoid of the second half."""
    return ggml.gated_linear(w[f"{name}.weight"], x, w.get(f"{name}.bias"))


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


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """Unmasked attention, ``softmax(scale * k q) v``, head by head.

    Args:
        q: ``[head_dim, queries, heads, batch]``.
        k: ``[head_dim, keys, kv_heads, batch]``; a key head serves ``heads / kv_heads`` queries'.
        v: like ``k``.

    Returns:
        ``[head_dim * heads, queries * batch]``.
    """
    head_dim, queries, heads, batch = q.ne
    return flash_attention(q, k, v, scale).reshape(head_dim * heads, queries * batch)
