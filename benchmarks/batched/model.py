"""PyTorch's forward of many recordings at once, as fast as PyTorch's own operations make it.

    features (B, T, 160) -> encode -> captured states -> project -> audio tokens -+
                               +-> pooled -> hear -> ids -> (host) -> slots ------+-> edit -> best

Weights are those of `granite_gguf.reference`, recordings are padded to the longest of a pass, and
each gets what the reference makes of it alone. Attention is scaled_dot_product_attention.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from granite_gguf.reference import GraniteSpeechNar, mel_bank
from granite_gguf.reference.config import FrontEndConfig
from granite_gguf.reference.encoder import ConformerBlock, posterior_pool
from granite_gguf.reference.frontend import DYNAMIC_RANGE, POWER_FLOOR
from granite_gguf.reference.granite import GraniteLayer, rope_angles
from granite_gguf.reference.layers import wide
from granite_gguf.reference.projector import ProjectorLayer

ALIGNED = 16  # elements: a mask whose rows begin elsewhere is copied by every attention
FORMS = ("first", "last", "taps")


class Hidden(NamedTuple):
    """What is padding in a pass of recordings of several lengths."""

    kept: Tensor  # (B, T, 1): 1 for a frame, 0 for padding
    blocks: Tensor  # (B * blocks, keys): added to the scores of the whole blocks
    tail: Tensor  # (B, keys): of the block that the longest does not fill


class Block(nn.Module):
    """A Conformer block of padded recordings, its attention one call for all equal blocks.

    BatchNorm is part of the depthwise weights, queries, keys and values are one product, and the
    relative positions are a table of distances.
    """

    def __init__(self, block: ConformerBlock, form: str = FORMS[0]) -> None:
        super().__init__()
        attn, conv = block.attn, block.conv
        self.ff1, self.ff2, self.post_norm = block.ff1, block.ff2, block.post_norm
        self.attn_norm, self.to_out, self.conv_norm = attn.pre_norm, attn.to_out, conv.norm
        self.n_heads, self.scale, self.context = attn.n_heads, attn.scale, attn.context_size
        self.form = form
        place = torch.arange(self.context)
        distance = place[:, None] - F.pad(place, (0, -self.context % ALIGNED))
        near = attn.rel_pos_emb.weight[distance + attn.max_pos_emb] * self.scale
        norm = conv.batch_norm
        factor = wide(norm.weight) * torch.rsqrt(wide(norm.running_var) + norm.eps)
        taps = wide(conv.depth_conv.weight) * factor[:, None, None]  # (inner, 1, taps)
        shift = wide(norm.bias) - wide(norm.running_mean) * factor
        dtype = attn.to_q.weight.dtype
        self.register_buffer("near", near)  # (queries, keys, head_dim)
        self.register_buffer("qkv", torch.cat([attn.to_q.weight, attn.to_kv.weight]))
        self.register_buffer("up", conv.up_conv.weight[..., 0].contiguous())
        self.register_buffer("up_bias", conv.up_conv.bias)
        self.register_buffer("taps", taps.to(dtype))
        self.register_buffer("shift", shift.to(dtype))
        self.register_buffer("down", conv.down_conv.weight[..., 0].contiguous())
        self.register_buffer("down_bias", conv.down_conv.bias)

    def forward(self, x: Tensor, hidden: Hidden | None) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        batch, length, width = x.shape
        x = torch.add(x, self.ff1(x), alpha=0.5)
        whole = length // self.context * self.context
        parts = [(x[:, :whole], self.context, None if hidden is None else hidden.blocks)]
        parts += [(x[:, whole:], length - whole, None if hidden is None else hidden.tail)]
        for part, size, bias in parts:
            if part.shape[1]:
                attended = self.attend(part.reshape(-1, size, width), bias)
                part.add_(attended.view(batch, -1, width))
        x = x + self.convolve(x, None if hidden is None else hidden.kept)
        x = torch.add(x, self.ff2(x), alpha=0.5)
        return self.post_norm(x)

    def attend(self, rows: Tensor, bias: Tensor | None) -> Tensor:
        """Blocks (N, C, D), bias (N, C up to ALIGNED) -> (N, C, D)."""
        n, size, _ = rows.shape
        keys = size + -size % ALIGNED
        q, k, v = (
            F.linear(self.attn_norm(rows), self.qkv).view(n, size, 3, self.n_heads, -1).unbind(2)
        )
        # By query, so that one product serves all heads and blocks.
        by_query = q.transpose(0, 1).reshape(size, n * self.n_heads, -1)
        near = (by_query @ self.near[:size, :keys].mT).view(size, n, self.n_heads, keys)
        if bias is not None:
            near = near + bias[:, None]
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        mask = near.permute(1, 2, 0, 3)[..., :size]
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=self.scale)
        return self.to_out(out.transpose(1, 2).flatten(2))

    def convolve(self, x: Tensor, kept: Tensor | None) -> Tensor:
        """(B, T, D) -> (B, T, D); padding is zero for its neighbours."""
        x = F.glu(F.linear(self.conv_norm(x), self.up, self.up_bias), dim=-1)
        if kept is not None:
            x = x * kept
        return F.linear(F.silu(self.depthwise(x)), self.down, self.down_bias)

    def depthwise(self, x: Tensor) -> Tensor:
        """(B, T, inner) -> (B, T, inner), in one of three ways to say the same."""
        inner, _, taps = self.taps.shape
        side = taps // 2
        if self.form == "first":
            return F.conv1d(x.mT, self.taps, self.shift, padding=side, groups=inner).mT
        if self.form == "last":
            image = x.mT[:, :, None]  # (B, inner, 1, T), channels last as it lies
            taps_2d = self.taps[:, :, None].contiguous(memory_format=torch.channels_last)
            convolved = F.conv2d(image, taps_2d, self.shift, padding=(0, side), groups=inner)
            return convolved[:, :, 0].mT
        padded, length = F.pad(x, (0, 0, side, side)), x.shape[1]
        total = self.shift
        for tap in range(taps):
            total = torch.addcmul(total, padded[:, tap : tap + length], self.taps[:, 0, tap])
        return total


class EditorLayer(nn.Module):
    """A Granite layer with a product for queries, keys and values, and one for gate and up."""

    def __init__(self, layer: GraniteLayer) -> None:
        super().__init__()
        attn, mlp = layer.self_attn, layer.mlp
        self.norms = nn.ModuleList([layer.input_layernorm, layer.post_attention_layernorm])
        self.o_proj, self.down_proj = attn.o_proj, mlp.down_proj
        self.n_heads, self.n_kv_heads, self.scale = attn.n_heads, attn.n_kv_heads, attn.scale
        self.residual = layer.residual_multiplier
        qkv = [attn.q_proj.weight, attn.k_proj.weight, attn.v_proj.weight]
        self.register_buffer("qkv", torch.cat(qkv))
        self.register_buffer("gate_up", torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, bias: Tensor | None) -> Tensor:
        """(B, N, D), angles' (N, 1, head_dim) -> (B, N, D); bias (B, 1, 1, N) hides keys."""
        first, second = self.norms
        attended = self.attend(rms_norm(x, first), cos, sin, bias)
        x = torch.add(x, attended, alpha=self.residual)
        gate, up = F.linear(rms_norm(x, second), self.gate_up).chunk(2, dim=-1)
        return torch.add(x, self.down_proj(F.silu(gate) * up), alpha=self.residual)

    def attend(self, x: Tensor, cos: Tensor, sin: Tensor, bias: Tensor | None) -> Tensor:
        """As `forward`, of normalised rows, without the residual."""
        batch, rows, _ = x.shape
        heads = (self.n_heads, self.n_kv_heads)
        qkv = F.linear(x, self.qkv).view(batch, rows, sum(heads) + self.n_kv_heads, -1)
        qk, v = qkv.split([sum(heads), self.n_kv_heads], dim=2)
        near, far = qk.chunk(2, dim=-1)
        qk = torch.addcmul(qk * cos, torch.cat([far, near], dim=-1), sin)
        q, k, v = (part.transpose(1, 2) for part in (*qk.split(heads, dim=2), v))
        # What takes a mask, or float32 on a GPU, takes no groups.
        grouped = bias is None and not (x.is_cuda and x.dtype == torch.float32)
        if not grouped:
            k, v = (part.repeat_interleave(heads[0] // heads[1], dim=1) for part in (k, v))
        out = F.scaled_dot_product_attention(
            q, k, v, attn_mask=bias, scale=self.scale, enable_gqa=grouped
        )
        return self.o_proj(out.transpose(1, 2).flatten(2))


def rms_norm(x: Tensor, norm: nn.Module) -> Tensor:
    return F.rms_norm(x, (x.shape[-1],), norm.weight, norm.eps)


def cross_attend(layer: ProjectorLayer, queries: Tensor, windows: Tensor) -> Tensor:
    """A projector layer: queries (N, 3, H) over windows (N, 15, H) -> (N, 3, H)."""
    attn = layer.cross_attention
    normed = layer.attn_norm(queries)
    q, k, v = (
        product(rows).unflatten(-1, (attn.n_heads, -1)).transpose(1, 2)
        for product, rows in ((attn.q_proj, normed), (attn.k_proj, windows), (attn.v_proj, windows))
    )
    out = F.scaled_dot_product_attention(q, k, v, scale=attn.scale)
    queries = queries + attn.o_proj(out.transpose(1, 2).flatten(2))
    return queries + layer.fc2(F.silu(layer.fc1(layer.mlp_norm(queries))))


class Batched(nn.Module):
    """The stages for recordings of several lengths, as functions of tensors on the device."""

    def __init__(self, model: GraniteSpeechNar, head_rows: int = 4096) -> None:
        super().__init__()
        rules = model.config.semantics
        if rules.layout != "granite_speech_nar":
            raise SystemExit(f"layout {rules.layout}: expected granite_speech_nar")
        self.config, self.head_rows = model.config, head_rows
        encoder, editor = model.encoder, model.editor
        self.input_linear, self.out, self.out_mid = (
            encoder.input_linear,
            encoder.out,
            encoder.out_mid,
        )
        self.blocks = nn.ModuleList(Block(block) for block in encoder.layers)
        self.out_bpe, self.projector = encoder.out_bpe, model.projector
        self.embed_tokens, self.norm = editor.embed_tokens, editor.norm
        self.layers = nn.ModuleList(EditorLayer(layer) for layer in editor.layers)
        self.turned: dict[int, tuple[Tensor, Tensor]] = {}
        self.pool: Callable[..., Tensor] = posterior_pool

    @property
    def dtype(self) -> torch.dtype:
        return self.input_linear.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.input_linear.weight.device

    def encode(self, features: Tensor, frames: Tensor | None) -> tuple[list[Tensor], Tensor]:
        """Features (B, T, 160), frames (B) unless all are T -> captured, pooled (B, W, D)."""
        config = self.config.encoder
        hidden = None if frames is None else self.hide(features.shape[1], frames)
        x = self.input_linear(features.to(self.dtype))
        states = {0: x}
        for index, block in enumerate(self.blocks, start=1):
            x = block(x, hidden)
            if index == config.self_conditioning_layer:
                x, blank = self.feed_back(x)
            if index in config.captured:
                states[index] = x
        if hidden is not None:
            blank = torch.where(hidden.kept[..., 0] > 0, blank, 1.0)  # padding weighs nothing
        return [states[k] for k in config.captured], self.pool(x, blank, config.pooling_window)

    def feed_back(self, x: Tensor) -> tuple[Tensor, Tensor]:
        p = wide(self.out(x)).softmax(dim=-1)
        return x + self.out_mid(p.to(x.dtype)), p[..., 0]

    def hide(self, length: int, frames: Tensor) -> Hidden:
        size = self.config.encoder.context_size
        place = torch.arange(length + -length % size, device=frames.device)
        padding = (place >= frames[:, None]).unflatten(1, (-1, size))
        padding = padding & ~padding.all(dim=-1, keepdim=True)  # no query without any key
        bias = torch.zeros(padding.shape, dtype=self.dtype, device=frames.device)
        bias = F.pad(bias.masked_fill(padding, -torch.inf), (0, -size % ALIGNED))
        whole, tail = length // size, length % size
        return Hidden(
            kept=(place[:length] < frames[:, None]).to(self.dtype)[..., None],
            blocks=bias[:, :whole].flatten(0, 1),
            tail=bias[:, -1, : tail + -tail % ALIGNED],
        )

    def best(self, rows: Tensor, head: nn.Module) -> Tensor:
        """Rows (R, D) -> the ids (R) of their greatest logits, never all logits at once."""
        bias = getattr(head, "bias", None)
        chunks = rows.split(self.head_rows)
        return torch.cat([F.linear(some, head.weight, bias).argmax(dim=-1) for some in chunks])

    def hear(self, pooled: Tensor, index: Tensor | None) -> Tensor:
        """Pooled (B, W, D), those of the B * W that are real, unless all -> ids of the BPE head."""
        rows = pooled.flatten(0, 1)
        return self.best(rows if index is None else rows.index_select(0, index), self.out_bpe)

    def project(self, states: Sequence[Tensor], frames: Tensor | None) -> Tensor:
        """Captured (B, T, D) each -> (B, 3 * ceil(T / 15), llm_dim), multiplied for the editor."""
        projector, config = self.projector, self.config.projector
        batch, length, _ = states[0].shape
        normed = [norm(state) for norm, state in zip(projector.layer_norms, states, strict=True)]
        fused = F.gelu(projector.layer_projector(torch.cat(normed, dim=-1)))
        if frames is not None:
            place = torch.arange(length, device=fused.device)
            fused = fused * (place < frames[:, None])[..., None]
        if length % config.window:
            fused = F.pad(fused, (0, 0, 0, -length % config.window))
        windows = fused.reshape(-1, config.window, config.hidden)
        queries = projector.query + windows.unflatten(1, (-1, config.downsample)).mean(dim=2)
        windows = windows + projector.window_positions
        for layer in projector.layers:
            queries = cross_attend(layer, queries, windows)
        out = projector.out_linear(projector.out_norm(queries)).view(batch, -1, config.llm_dim)
        # Divided by the multiplier, and multiplied by it with all rows.
        scaled = self.config.semantics.scale_projected_embeddings
        return out if scaled else out * self.config.editor.embedding_multiplier

    def edit(
        self, audio: Tensor, ids: Tensor, source: Tensor, text_rows: Tensor, real: Tensor | None
    ) -> Tensor:
        """Final states (n, D) of all text rows.

        audio (B, A, D); ids (n) of all texts, one after the other; source (B, N): which of the
        B * A + n rows stands where; text_rows (n) of the B * N; real (B) rows, unless all are.
        """
        config = self.config.editor
        text = self.embed_tokens(ids) * config.embedding_multiplier
        x = torch.cat([audio.flatten(0, 1), text]).index_select(0, source.flatten())
        x = x.view(*source.shape, -1)
        cos, sin = self.turns(source.shape[1])
        bias = None
        if real is not None:
            rows = source.shape[1]
            padding = torch.arange(rows + -rows % ALIGNED, device=x.device) >= real[:, None]
            bias = torch.zeros(padding.shape, dtype=x.dtype, device=x.device)
            bias = bias.masked_fill(padding, -torch.inf)[:, None, None, :rows]
        for layer in self.layers:
            x = layer(x, cos, sin, bias)
        return rms_norm(x.flatten(0, 1).index_select(0, text_rows), self.norm)

    def turns(self, rows: int) -> tuple[Tensor, Tensor]:
        """Cosines and signed sines (N, 1, head_dim) of the rows' angles."""
        if rows not in self.turned:
            config = self.config.editor
            angles = rope_angles(rows, config.head_dim, config.rope_theta)[:, None]
            cos, sin = angles.cos().repeat(1, 1, 2), torch.cat([-angles.sin(), angles.sin()], -1)
            place = {"dtype": self.dtype, "device": self.device}
            self.turned[rows] = (cos.to(**place), sin.to(**place))
        return self.turned[rows]


def log_mels(samples: Tensor, counts: Tensor, config: FrontEndConfig) -> Tensor:
    """Recordings (B, n) of `counts` (B) samples -> features (B, T, 160), zero behind the end."""
    side, device = config.n_fft // 2, samples.device
    padded = F.pad(samples, (side, side))
    padded[:, :side] = samples[:, 1 : side + 1].flip(1)
    behind = counts[:, None] + torch.arange(side, device=device)
    mirrored = samples.gather(1, 2 * counts[:, None] - 2 - behind)
    padded.scatter_(1, behind + side, mirrored)
    spectrum = torch.stft(
        padded, config.n_fft, config.hop_length, config.win_length, center=False,
        window=torch.hann_window(config.win_length, device=device), return_complex=True,
    )  # fmt: skip
    length = config.frame_stack * (samples.shape[1] // (config.hop_length * config.frame_stack))
    power = spectrum.abs().square()[..., :length].mT @ mel_bank(config).to(device)
    frames = counts // (config.hop_length * config.frame_stack) * config.frame_stack
    beyond = (torch.arange(length, device=device) >= frames[:, None])[..., None]
    logs = power.clamp(min=POWER_FLOOR).log10().masked_fill(beyond, -torch.inf)
    logs = torch.maximum(logs, logs.amax(dim=(1, 2), keepdim=True) - DYNAMIC_RANGE)
    features = (logs / 4 + 1).masked_fill(beyond, 0.0)
    return features.reshape(len(samples), -1, config.frame_stack * config.n_mels)
