"""Windowed cross-attention projector.

    captured states (B, T, 4 D) -> LN each -> layer_projector -> erf GELU -> zero-pad to 15 | T'
    windows of 15 (B * T'/15, 15, H) + window_positions -> keys and values
    mean of each 5 frames + 3 learned queries -> two layers -> LN -> out_linear
    -> (B, T'/5, llm_dim)

There is no mask and no self-attention: rows of padding are attended to like any other.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from granite_gguf.reference.config import ProjectorConfig
from granite_gguf.reference.layers import attend, split_heads


class CrossAttention(nn.Module):
    """Multi-head attention of a window's queries over its frames."""

    def __init__(self, config: ProjectorConfig) -> None:
        super().__init__()
        hidden, bias = config.hidden, config.attention_bias
        self.n_heads = config.n_heads
        self.scale = (hidden // config.n_heads) ** -0.5
        self.q_proj = nn.Linear(hidden, hidden, bias=bias)
        self.k_proj = nn.Linear(hidden, hidden, bias=bias)
        self.v_proj = nn.Linear(hidden, hidden, bias=bias)
        self.o_proj = nn.Linear(hidden, hidden, bias=bias)

    def forward(self, queries: Tensor, window: Tensor) -> Tensor:
        """Queries (N, 3, H) over windows (N, 15, H) -> (N, 3, H)."""
        q = split_heads(self.q_proj(queries), self.n_heads)
        k = split_heads(self.k_proj(window), self.n_heads)
        v = split_heads(self.v_proj(window), self.n_heads)
        out: Tensor = self.o_proj(attend(q @ k.mT * self.scale, v))
        return out


class ProjectorLayer(nn.Module):
    """Cross-attention and MLP, each on normalised queries."""

    def __init__(self, config: ProjectorConfig) -> None:
        super().__init__()
        self.attn_norm = _norm(config.hidden, config)
        self.cross_attention = CrossAttention(config)
        self.mlp_norm = _norm(config.hidden, config)
        self.fc1 = nn.Linear(config.hidden, config.mlp_dim, bias=config.mlp_bias)
        self.fc2 = nn.Linear(config.mlp_dim, config.hidden, bias=config.mlp_bias)

    def forward(self, queries: Tensor, window: Tensor) -> Tensor:
        """Queries (N, 3, H) and windows (N, 15, H), which are not normalised -> (N, 3, H)."""
        queries = queries + self.cross_attention(self.attn_norm(queries), window)
        queries = queries + self.fc2(F.silu(self.fc1(self.mlp_norm(queries))))
        return queries


class Projector(nn.Module):
    """Captured encoder states to audio tokens, before they are cut and scaled."""

    def __init__(self, config: ProjectorConfig) -> None:
        super().__init__()
        self.config = config
        hidden = config.hidden
        fused = config.encoder_dim * config.n_encoder_layers
        self.layer_norms = nn.ModuleList(
            _norm(config.encoder_dim, config) for _ in range(config.n_encoder_layers)
        )
        self.layer_projector = nn.Linear(fused, hidden)
        self.query = nn.Parameter(torch.empty(config.window // config.downsample, hidden))
        self.window_positions = nn.Parameter(torch.empty(config.window, hidden))
        self.layers = nn.ModuleList(ProjectorLayer(config) for _ in range(config.n_layers))
        self.out_norm = _norm(hidden, config)
        self.out_linear = nn.Linear(hidden, config.llm_dim)
        nn.init.normal_(self.query, std=hidden**-0.5)
        nn.init.normal_(self.window_positions, std=hidden**-0.5)

    def forward(self, states: Tensor) -> Tensor:
        """(B, T, layers * D) -> (B, 3 * ceil(T / 15), llm_dim)."""
        config = self.config
        batch, length, _ = states.shape
        layers = states.chunk(config.n_encoder_layers, dim=-1)
        normed = [norm(layer) for norm, layer in zip(self.layer_norms, layers, strict=True)]
        fused = F.gelu(self.layer_projector(torch.cat(normed, dim=-1)), approximate="none")
        fused = F.pad(fused, (0, 0, 0, -length % config.window))
        windows = fused.reshape(-1, config.window, config.hidden)  # (B * windows, 15, H)

        # The zeros of the padding count in the mean, too.
        segments = windows.reshape(len(windows), -1, config.downsample, config.hidden)
        queries = self.query + segments.mean(dim=2)  # (B * windows, 3, H)
        windows = windows + self.window_positions
        for layer in self.layers:
            queries = layer(queries, windows)
        out: Tensor = self.out_linear(self.out_norm(queries))
        return out.reshape(batch, -1, config.llm_dim)


def _norm(width: int, config: ProjectorConfig) -> nn.LayerNorm:
    return nn.LayerNorm(width, config.norm_eps, elementwise_affine=config.affine_norms)
