"""Granite layers, of which both language models are made.

    rows (B, N, D) -> + 0.22 * attention(RMSNorm) -> + 0.22 * gated MLP(RMSNorm) -> ... -> RMSNorm

Which row sees which is the caller's to say, by what is added to the scores.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from granite_gguf.reference.config import GraniteConfig
from granite_gguf.reference.layers import attend, split_heads, wide


class RMSNorm(nn.Module):
    """x / rms(x) in at least float32, then the weight."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        h = wide(x)
        h = h * torch.rsqrt(h.square().mean(dim=-1, keepdim=True) + self.eps)
        return self.weight * h.to(x.dtype)


def rope_angles(n_rows: int, head_dim: int, theta: float) -> Tensor:
    """Angles (n_rows, head_dim / 2) in float32: row index times theta ** (-2 k / head_dim)."""
    frequencies = theta ** -(torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    return torch.arange(n_rows, dtype=torch.float32)[:, None] * frequencies


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Rotate (B, heads, N, head_dim) by angles (N, head_dim / 2), element k with k + head_dim / 2.

    The halves are paired (NeoX), not neighbours.
    """
    cos, sin = angles.cos().to(x), angles.sin().to(x)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


@dataclass
class Past:
    """Keys and values (B, heads, K, head_dim) of the rows before, in one layer."""

    keys: Tensor | None = None
    values: Tensor | None = None

    @property
    def length(self) -> int:
        """How many rows."""
        return 0 if self.keys is None else self.keys.shape[2]

    def add(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Those of more rows behind them -> all of them."""
        if self.keys is not None and self.values is not None:
            keys = torch.cat([self.keys, keys], dim=2)
            values = torch.cat([self.values, values], dim=2)
        self.keys, self.values = keys, values
        return keys, values


class GraniteAttention(nn.Module):
    """Grouped-query attention: over all rows, unless a bias hides some of them."""

    def __init__(self, config: GraniteConfig) -> None:
        super().__init__()
        d_model, head_dim = config.d_model, config.head_dim
        self.n_heads, self.n_kv_heads = config.n_heads, config.n_kv_heads
        self.scale = config.attention_multiplier  # 1/128, not 1/sqrt(128)
        self.q_proj = nn.Linear(d_model, config.n_heads * head_dim, bias=False)
        self.k_proj = nn.Linear(d_model, config.n_kv_heads * head_dim, bias=False)
        self.v_proj = nn.Linear(d_model, config.n_kv_heads * head_dim, bias=False)
        self.o_proj = nn.Linear(config.n_heads * head_dim, d_model, bias=False)

    def forward(
        self, x: Tensor, angles: Tensor, bias: Tensor | None = None, past: Past | None = None
    ) -> Tensor:
        """Rows (B, N, D) and their angles (N, head_dim / 2) -> (B, N, D).

        `bias` is added to the scores (B, heads, N, K); K is N, and more where there is a past.
        """
        group = self.n_heads // self.n_kv_heads
        q = rotate(split_heads(self.q_proj(x), self.n_heads), angles)
        k = rotate(split_heads(self.k_proj(x), self.n_kv_heads), angles)
        v = split_heads(self.v_proj(x), self.n_kv_heads)
        if past is not None:
            k, v = past.add(k, v)
        # Query head h uses key/value head h // group.
        k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
        scores = q @ k.mT * self.scale
        out: Tensor = self.o_proj(attend(scores if bias is None else scores + bias, v))
        return out


class GatedMLP(nn.Module):
    """down(SiLU(gate) * up)."""

    def __init__(self, config: GraniteConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.d_model, config.ff_dim, bias=False)
        self.up_proj = nn.Linear(config.d_model, config.ff_dim, bias=False)
        self.down_proj = nn.Linear(config.ff_dim, config.d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class GraniteLayer(nn.Module):
    """One layer; both residual branches are scaled down."""

    def __init__(self, config: GraniteConfig) -> None:
        super().__init__()
        self.residual_multiplier = config.residual_multiplier
        self.input_layernorm = RMSNorm(config.d_model, config.norm_eps)
        self.self_attn = GraniteAttention(config)
        self.post_attention_layernorm = RMSNorm(config.d_model, config.norm_eps)
        self.mlp = GatedMLP(config)

    def forward(
        self, x: Tensor, angles: Tensor, bias: Tensor | None = None, past: Past | None = None
    ) -> Tensor:
        """Rows (B, N, D) and their angles (N, head_dim / 2) -> (B, N, D)."""
        attended = self.self_attn(self.input_layernorm(x), angles, bias, past)
        x = x + self.residual_multiplier * attended
        x = x + self.residual_multiplier * self.mlp(self.post_attention_layernorm(x))
        return x
