"""Conformer encoder with a character and a BPE head.

    features (B, T, 160) -> input_linear -> block 1 .. 8 -> + out_mid(p) -> block 9 .. 16 -> final
                                                       p = softmax(out(.)), p[..., 0] = blank_prob
    captured states, side by side -> (B, T, 4 D) for the projector
    final, pooled by 1 - blank_prob -> (B, ceil(T / 4), D) -> out_bpe -> (B, W, V)

Equal lengths in a batch: there is no padding mask. No dropout. In `train()` mode BatchNorm uses
the statistics of the batch; the published behaviour is that of `eval()`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from granite_gguf.reference.config import ConformerConfig, EncoderConfig
from granite_gguf.reference.layers import attend, split_heads, wide

NORM_EPS = 1e-5


@dataclass(frozen=True)
class Encoded:
    """Everything the encoder yields for features (B, T, input_dim); W = ceil(T / 4)."""

    captured: tuple[Tensor, ...]  # per captured layer (B, T, D)
    final: Tensor  # (B, T, D)
    char_logits: Tensor  # (B, T, chars), the character head on the final state
    blank_prob: Tensor  # (B, T), of the softmax that is fed back
    pooled: Tensor  # (B, W, D)
    bpe_logits: Tensor  # (B, W, V)

    @property
    def output(self) -> Tensor:
        """(B, T, layers * D): the captured states in list order, as the projector takes them."""
        return torch.cat(self.captured, dim=-1)


class FeedForward(nn.Module):
    """Half of the macaron: LN, up, SiLU, down."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        self.pre_norm = nn.LayerNorm(config.d_model, NORM_EPS)
        self.up_proj = nn.Linear(config.d_model, config.ff_dim)
        self.down_proj = nn.Linear(config.ff_dim, config.d_model)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        out: Tensor = self.down_proj(F.silu(self.up_proj(self.pre_norm(x))))
        return out


class BlockAttention(nn.Module):
    """Self-attention inside independent blocks, with Shaw's relative positions (1803.02155)."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        inner = config.n_heads * config.head_dim
        self.n_heads = config.n_heads
        self.scale = config.head_dim**-0.5
        self.context_size = config.context_size
        self.max_pos_emb = config.max_pos_emb
        self.pre_norm = nn.LayerNorm(config.d_model, NORM_EPS)
        self.to_q = nn.Linear(config.d_model, inner, bias=False)
        self.to_kv = nn.Linear(config.d_model, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, config.d_model)
        self.rel_pos_emb = nn.Embedding(2 * config.max_pos_emb + 1, config.head_dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        # The last block is just shorter, so that no key of it is padding.
        blocks = self.pre_norm(x).split(self.context_size, dim=1)
        out: Tensor = self.to_out(torch.cat([self.attend_block(block) for block in blocks], dim=1))
        return out

    def attend_block(self, x: Tensor) -> Tensor:
        """One block (B, C, D), C <= context_size -> (B, C, heads * head_dim)."""
        q = split_heads(self.to_q(x), self.n_heads)  # (B, heads, C, head_dim)
        k, v = (split_heads(half, self.n_heads) for half in self.to_kv(x).chunk(2, dim=-1))
        place = torch.arange(x.shape[1], device=x.device)
        relative = self.rel_pos_emb(place[:, None] - place + self.max_pos_emb)  # query minus key
        scores = q @ k.mT + torch.einsum("bhid,ijd->bhij", q, relative)
        return attend(scores * self.scale, v)


class ConvModule(nn.Module):
    """LN, 1x1 up, GLU, depthwise, BatchNorm, SiLU, 1x1 down, over the whole utterance."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        inner, taps = config.conv_inner, config.conv_kernel
        self.norm = nn.LayerNorm(config.d_model, NORM_EPS)
        self.up_conv = nn.Conv1d(config.d_model, 2 * inner, 1)
        self.depth_conv = nn.Conv1d(inner, inner, taps, padding=taps // 2, groups=inner, bias=False)
        self.batch_norm = nn.BatchNorm1d(inner, NORM_EPS)
        self.down_conv = nn.Conv1d(inner, config.d_model, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        x = F.glu(self.up_conv(self.norm(x).mT), dim=1)  # (B, inner, T)
        x = F.silu(self.batch_norm(self.depth_conv(x)))  # BatchNorm first, then SiLU
        out: Tensor = self.down_conv(x).mT
        return out


class ConformerBlock(nn.Module):
    """Macaron Conformer block (2005.08100)."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        self.ff1 = FeedForward(config)
        self.attn = BlockAttention(config)
        self.conv = ConvModule(config)
        self.ff2 = FeedForward(config)
        self.post_norm = nn.LayerNorm(config.d_model, NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        x = x + 0.5 * self.ff1(x)
        x = x + self.attn(x)
        x = x + self.conv(x)
        x = x + 0.5 * self.ff2(x)
        out: Tensor = self.post_norm(x)
        return out


@dataclass(frozen=True)
class Heard:
    """What the blocks yield for features (B, T, input_dim)."""

    states: tuple[Tensor, ...]  # (B, T, D) each: 0 the embedded input, k the output of block k
    before_feedback: Tensor  # (B, T, D), where states has the state with the feedback
    char_logits: Tensor  # (B, T, chars), the character head on the final state
    blank_prob: Tensor  # (B, T), of the softmax that is fed back

    @property
    def final(self) -> Tensor:
        """(B, T, D), always with the feedback."""
        return self.states[-1]


class Conformer(nn.Module):
    """The blocks and the character head."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        self.input_linear = nn.Linear(config.input_dim, config.d_model)
        self.layers = nn.ModuleList(ConformerBlock(config) for _ in range(config.n_layers))
        self.out = nn.Linear(config.d_model, config.char_vocab)
        self.out_mid = nn.Linear(config.char_vocab, config.d_model)
        self.self_conditioning_layer = config.self_conditioning_layer

    def hear(self, features: Tensor) -> Heard:
        """Features (B, T, input_dim) -> the states of all blocks."""
        x: Tensor = self.input_linear(features)
        states = [x]
        for index, block in enumerate(self.layers, start=1):
            x = block(x)
            if index == self.self_conditioning_layer:
                before = x
                p = wide(self.out(x)).softmax(dim=-1)
                x = x + self.out_mid(p.to(x.dtype))
            states.append(x)
        return Heard(tuple(states), before, self.out(x), p[..., 0])


class Encoder(Conformer):
    """The whole encoder with its three linear heads."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__(config)
        self.config = config
        self.out_bpe = nn.Linear(config.d_model, config.bpe_vocab)

    def forward(self, features: Tensor) -> Encoded:
        """Features (B, T, input_dim) -> every output of the encoder."""
        config, heard = self.config, self.hear(features)
        pooled = posterior_pool(heard.final, heard.blank_prob, config.pooling_window)
        return Encoded(
            captured=tuple(self._captured(heard, index) for index in config.captured),
            final=heard.final,
            char_logits=heard.char_logits,
            blank_prob=heard.blank_prob,
            pooled=pooled,
            bpe_logits=self.out_bpe(pooled),
        )

    def _captured(self, heard: Heard, index: int) -> Tensor:
        config = self.config
        # The final state is always the one after the feedback.
        early = index == config.self_conditioning_layer != config.n_layers
        return (
            heard.before_feedback
            if config.capture_before_feedback and early
            else (heard.states[index])
        )


def posterior_pool(frames: Tensor, blank_prob: Tensor, window: int) -> Tensor:
    """Average each window by how likely its frames are not blank.

    Frames (B, T, D) and blank_prob (B, T) -> (B, ceil(T / window), D). Frames missing from the
    last window weigh nothing. Where all weights are near 0 the result is ill-conditioned.
    """
    batch, length, width = frames.shape
    missing = -length % window
    weights = F.pad(1.0 - blank_prob, (0, missing)).reshape(batch, -1, window)  # (B, W, window)
    weights = weights / (weights.sum(dim=-1, keepdim=True) + 1e-8)
    windows = F.pad(wide(frames), (0, 0, 0, missing)).reshape(batch, -1, window, width)
    return torch.einsum("bwf,bwfd->bwd", weights, windows).to(frames.dtype)
