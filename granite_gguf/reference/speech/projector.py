"""BLIP-2's Q-Former: encoder output to audio rows of the language model.

    output (B, T, E), zeros behind it up to a multiple of 15 -> windows (B * W, 15, E)
    LN(query (3, H)) -> layers: LN(q + self-attention), LN(q + cross-attention), LN(q + MLP)
    -> linear -> (B, 3 W, llm_dim)

The norms stand behind the additions. The zeros are attended to like frames.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from granite_gguf.reference.layers import attend, split_heads
from granite_gguf.reference.speech.config import QFormerConfig


class Attention(nn.Module):
    """`LN(q + dense(attention of q to the rows seen))`."""

    def __init__(self, config: QFormerConfig, seen: int) -> None:
        super().__init__()
        hidden = config.hidden
        self.n_heads = config.n_heads
        self.scale = (hidden // config.n_heads) ** -0.5
        self.query = nn.Linear(hidden, hidden)
        self.key = nn.Linear(seen, hidden)
        self.value = nn.Linear(seen, hidden)
        self.dense = nn.Linear(hidden, hidden)
        self.norm = nn.LayerNorm(hidden, config.norm_eps)

    def forward(self, queries: Tensor, seen: Tensor) -> Tensor:
        """Queries (N, 3, H) and what they see (N, S, width) -> (N, 3, H)."""
        q = split_heads(self.query(queries), self.n_heads)
        k = split_heads(self.key(seen), self.n_heads)
        v = split_heads(self.value(seen), self.n_heads)
        out: Tensor = self.norm(queries + self.dense(attend(q @ k.mT * self.scale, v)))
        return out


class FeedForward(nn.Module):
    """`LN(q + down(erf GELU(up(q))))`."""

    def __init__(self, config: QFormerConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.hidden, config.ff_dim)
        self.down = nn.Linear(config.ff_dim, config.hidden)
        self.norm = nn.LayerNorm(config.hidden, config.norm_eps)

    def forward(self, queries: Tensor) -> Tensor:
        """(N, 3, H) -> (N, 3, H)."""
        inner = F.gelu(self.up(queries), approximate="none")
        out: Tensor = self.norm(queries + self.down(inner))
        return out


class QFormerLayer(nn.Module):
    """Queries look at one another, then at their window."""

    def __init__(self, config: QFormerConfig) -> None:
        super().__init__()
        self.self_attention = Attention(config, config.hidden)
        self.cross_attention = Attention(config, config.encoder_width)
        self.feed_forward = FeedForward(config)

    def forward(self, queries: Tensor, window: Tensor) -> Tensor:
        """Queries (N, 3, H) and windows (N, 15, E) -> (N, 3, H)."""
        queries = self.self_attention(queries, queries)
        queries = self.cross_attention(queries, window)
        out: Tensor = self.feed_forward(queries)
        return out


class QFormer(nn.Module):
    """Encoder output to audio rows, before the language model's multiplier."""

    def __init__(self, config: QFormerConfig) -> None:
        super().__init__()
        self.config = config
        self.query = nn.Parameter(torch.empty(config.n_queries, config.hidden))
        self.norm = nn.LayerNorm(config.hidden, config.norm_eps)
        self.layers = nn.ModuleList(QFormerLayer(config) for _ in range(config.n_layers))
        self.linear = nn.Linear(config.hidden, config.llm_dim)
        nn.init.normal_(self.query)

    def forward(self, output: Tensor) -> Tensor:
        """(B, T, E) -> (B, 3 * ceil(T / 15), llm_dim)."""
        window = self.config.window
        batch, length, width = output.shape
        windows = F.pad(output, (0, 0, 0, -length % window)).reshape(-1, window, width)
        queries = self.norm(self.query).expand(len(windows), -1, -1)
        for layer in self.layers:
            queries = layer(queries, windows)
        out: Tensor = self.linear(queries)
        return out.reshape(batch, -1, self.config.llm_dim)
