"""Granite language model that writes a text after a prompt with audio rows in it.

    prompt ids (P) -> embeddings, audio rows in the places of the audio token -> * 12
    -> layers, every row sees those before it -> RMSNorm -> head -> / 8 -> logits (P, V)

Unlike the one that edits, all rows are multiplied alike: audio rows arrive as the projector makes
them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from granite_gguf.reference.granite import GraniteLayer, Past, RMSNorm, rope_angles
from granite_gguf.reference.layers import wide
from granite_gguf.reference.speech.config import LanguageConfig


class Language(nn.Module):
    """The language model with its head."""

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.d_model)
        self.layers = nn.ModuleList(GraniteLayer(config) for _ in range(config.n_layers))
        self.norm = RMSNorm(config.d_model, config.norm_eps)
        self.head = (
            None if config.tied else nn.Linear(config.d_model, config.vocab_size, bias=False)
        )

    def rows(self, ids: Tensor, audio: Tensor) -> Tensor:
        """Ids (P) and audio rows (A, D), one for each audio token among them -> (P, D)."""
        places = ids == self.config.audio_token
        if int(places.sum()) != len(audio):
            raise ValueError(f"{len(audio)} audio rows for {int(places.sum())} audio tokens")
        rows = self.embed_tokens(ids)
        out: Tensor = rows.masked_scatter(places[:, None], audio.to(rows.dtype))
        return out

    def forward(self, rows: Tensor, asked: int, past: list[Past] | None = None) -> Tensor:
        """Rows (P, D), not yet multiplied -> logits (asked, V) of the last ones, divided.

        With a past, which this extends, the rows stand behind those it is of.
        """
        config = self.config
        x = (rows * config.embedding_multiplier)[None]
        first = past[0].length if past else 0
        total = first + len(rows)
        places = torch.arange(total, device=x.device)
        hidden = places > places[first:, None]  # (P, total): a row does not see what follows it
        bias = torch.zeros(hidden.shape, device=x.device).masked_fill(hidden, -torch.inf).to(x)
        angles = rope_angles(total, config.head_dim, config.rope_theta)[first:].to(x.device)
        for n, layer in enumerate(self.layers):
            x = layer(x, angles, bias, past[n] if past else None)
        states = self.norm(x[0, len(rows) - asked :])
        weight = self.embed_tokens.weight if self.head is None else self.head.weight
        return wide(states @ weight.T) / config.logits_scaling

    def generate(self, rows: Tensor, most: int) -> list[int]:
        """The likeliest token after rows (P, D), and after each: up to the end, which is the last.

        At most `most` tokens.
        """
        past = [Past() for _ in self.layers]
        said: list[int] = []
        while len(said) < most and self.config.eos not in said[-1:]:
            said.append(int(self(rows, 1, past)[0].argmax()))
            rows = self.embed_tokens(torch.tensor(said[-1:], device=rows.device))
        return said
