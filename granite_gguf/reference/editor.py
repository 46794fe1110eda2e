"""Granite language model that edits the hypothesis in one bidirectional pass.

    [audio tokens (B, A, D), embeddings of the text ids (B, n, D)] * embedding_multiplier
    -> layers, every row sees every row -> RMSNorm -> text rows @ embeddings.T -> (B, n, V)

The multiplier acts on the audio rows as well, which is why they arrive divided by it. There is no
mask, no cache and no head of its own: the embedding matrix serves as one.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from granite_gguf.reference.config import EditorConfig
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


def padding_bias(n_rows: int, real: Tensor) -> Tensor:
    """What hides all but the first `real` (B) of n_rows keys from every query: (B, 1, 1, N)."""
    hidden = torch.arange(n_rows, device=real.device) >= real[:, None]
    bias = torch.zeros(hidden.shape, device=real.device).masked_fill(hidden, -torch.inf)
    return bias[:, None, None]


class EditorAttention(nn.Module):
    """Grouped-query attention over all rows."""

    def __init__(self, config: EditorConfig) -> None:
        super().__init__()
        d_model, head_dim = config.d_model, config.head_dim
        self.n_heads, self.n_kv_heads = config.n_heads, config.n_kv_heads
        self.scale = config.attention_multiplier  # 1/128, not 1/sqrt(128)
        self.q_proj = nn.Linear(d_model, config.n_heads * head_dim, bias=False)
        self.k_proj = nn.Linear(d_model, config.n_kv_heads * head_dim, bias=False)
        self.v_proj = nn.Linear(d_model, config.n_kv_heads * head_dim, bias=False)
        self.o_proj = nn.Linear(config.n_heads * head_dim, d_model, bias=False)

    def forward(self, x: Tensor, angles: Tensor, bias: Tensor | None = None) -> Tensor:
        """Rows (B, N, D) and their angles (N, head_dim / 2) -> (B, N, D).

        `bias` is added to the scores (B, heads, N, N).
        """
        group = self.n_heads // self.n_kv_heads
        q = rotate(split_heads(self.q_proj(x), self.n_heads), angles)
        k = rotate(split_heads(self.k_proj(x), self.n_kv_heads), angles)
        v = split_heads(self.v_proj(x), self.n_kv_heads)
        # Query head h uses key/value head h // group.
        k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
        scores = q @ k.mT * self.scale
        out: Tensor = self.o_proj(attend(scores if bias is None else scores + bias, v))
        return out


class GatedMLP(nn.Module):
    """down(SiLU(gate) * up)."""

    def __init__(self, config: EditorConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.d_model, config.ff_dim, bias=False)
        self.up_proj = nn.Linear(config.d_model, config.ff_dim, bias=False)
        self.down_proj = nn.Linear(config.ff_dim, config.d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class EditorLayer(nn.Module):
    """One layer; both residual branches are scaled down."""

    def __init__(self, config: EditorConfig) -> None:
        super().__init__()
        self.residual_multiplier = config.residual_multiplier
        self.input_layernorm = RMSNorm(config.d_model, config.norm_eps)
        self.self_attn = EditorAttention(config)
        self.post_attention_layernorm = RMSNorm(config.d_model, config.norm_eps)
        self.mlp = GatedMLP(config)

    def forward(self, x: Tensor, angles: Tensor, bias: Tensor | None = None) -> Tensor:
        """Rows (B, N, D) and their angles (N, head_dim / 2) -> (B, N, D)."""
        x = x + self.residual_multiplier * self.self_attn(self.input_layernorm(x), angles, bias)
        x = x + self.residual_multiplier * self.mlp(self.post_attention_layernorm(x))
        return x


class Editor(nn.Module):
    """The language model with its tied head."""

    def __init__(self, config: EditorConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.d_model)
        self.layers = nn.ModuleList(EditorLayer(config) for _ in range(config.n_layers))
        self.norm = RMSNorm(config.d_model, config.norm_eps)

    def forward(self, audio: Tensor, text_ids: Tensor, rows: Tensor | None = None) -> Tensor:
        """Audio tokens (B, A, D), A >= 0, and text ids (B, n) -> logits (B, n, V).

        The logits are not divided by `logits_scaling`, whatever the layout. In a batch of texts of
        several lengths, `rows` (B) says how many of the n are real: no row sees the others.
        """
        real = None if rows is None else audio.shape[1] + rows
        hidden = self.hidden(torch.cat([audio, self.embed_tokens(text_ids)], dim=1), real)
        return hidden[:, audio.shape[1] :] @ self.embed_tokens.weight.T

    def hidden(self, rows: Tensor, real: Tensor | None = None) -> Tensor:
        """Input rows (B, N, D), not yet multiplied -> normalised final states (B, N, D).

        `real` (B) counts the rows that are not padding; None means all.
        """
        config = self.config
        x = rows * config.embedding_multiplier
        angles = rope_angles(x.shape[1], config.head_dim, config.rope_theta).to(x.device)
        bias = None if real is None else padding_bias(x.shape[1], real).to(x)
        for layer in self.layers:
            x = layer(x, angles, bias)
        out: Tensor = self.norm(x)
        return out
