"""Small modules that several stages share."""

from __future__ import annotations

import torch
from torch import Tensor


def wide(x: Tensor) -> Tensor:
    """`x` in at least float32: half precision is widened, float64 stays."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def split_heads(x: Tensor, n_heads: int) -> Tensor:
    """(B, T, heads * head_dim) -> (B, heads, T, head_dim), heads contiguous."""
    batch, length, width = x.shape
    return x.reshape(batch, length, n_heads, width // n_heads).transpose(1, 2)


def attend(scores: Tensor, values: Tensor) -> Tensor:
    """Scores (B, heads, Q, K) over values (B, heads, K, head_dim) -> (B, Q, heads * head_dim)."""
    weights = wide(scores).softmax(dim=-1).to(values.dtype)
    return (weights @ values).transpose(1, 2).flatten(2)
