"""Granite language model that edits the hypothesis in one bidirectional pass.

    [audio tokens (B, A, D), embeddings of the text ids (B, n, D)] * embedding_multiplier
    -> layers, every row sees every row -> RMSNorm -> text rows @ embeddings.T -> (B, n, V)

The multiplier acts on the audio rows as well, which is why they arrive divided by it. There is no
mask, no cache and no head of its own: the embedding matrix serves as one.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from granite_gguf.reference.config import EditorConfig
from granite_gguf.reference.granite import GraniteLayer, RMSNorm, rope_angles


def padding_bias(n_rows: int, real: Tensor) -> Tensor:
    """What hides all but the first `real` (B) of n_rows keys from every query: (B, 1, 1, N)."""
    hidden = torch.arange(n_rows, device=real.device) >= real[:, None]
    bias = torch.zeros(hidden.shape, device=real.device).masked_fill(hidden, -torch.inf)
    return bias[:, None, None]


class Editor(nn.Module):
    """The language model with its tied head."""

    def __init__(self, config: EditorConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.d_model)
        self.layers = nn.ModuleList(GraniteLayer(config) for _ in range(config.n_layers))
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
