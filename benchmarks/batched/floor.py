"""What a pass costs at least: its multiplications over what the device was measured to do."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import torch
from torch.nn import functional as F

from benchmarks.batched.model import Batched
from granite_gguf.reference import ModelConfig


class Clock:
    """Seconds between marks: of the GPU's stream where there is one."""

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        self.marks: list[tuple[str, Any]] = []

    def mark(self, name: str) -> None:
        now: Any = time.perf_counter()
        if self.cuda:
            now = torch.cuda.Event(enable_timing=True)
            now.record()
        self.marks.append((name, now))

    def seconds(self) -> dict[str, float]:
        pairs = zip(self.marks, self.marks[1:], strict=False)
        if self.cuda:
            torch.cuda.synchronize()
            return {name: start.elapsed_time(end) / 1e3 for (_, start), (name, end) in pairs}
        return {name: end - start for (_, start), (name, end) in pairs}


def flops(config: ModelConfig, frames: Sequence[int], texts: Sequence[int]) -> dict[str, float]:
    """Of the real rows: two for each multiplication of a product, attention included."""
    e, p, g = config.encoder, config.projector, config.editor
    inner, width = e.n_heads * e.head_dim, e.d_model
    t = sum(frames)
    blocks = [min(e.context_size, n - at) for n in frames for at in range(0, n, e.context_size)]
    layer = t * (4 * width * e.ff_dim + 4 * width * inner + 3 * width * e.conv_inner)
    layer += t * e.conv_inner * e.conv_kernel + sum(3 * c * c * inner for c in blocks)
    encoder = e.n_layers * layer + t * width * (e.input_dim + 2 * e.char_vocab)
    windows = sum(-(-n // p.window) for n in frames)
    queries = windows * p.window // p.downsample
    crossed = queries * (2 * p.hidden**2 + 2 * p.hidden * p.mlp_dim + 2 * p.window * p.hidden)
    crossed += windows * p.window * 2 * p.hidden**2
    projector = t * p.encoder_dim * p.n_encoder_layers * p.hidden + queries * p.hidden * p.llm_dim
    rows = [n // p.downsample + text for n, text in zip(frames, texts, strict=True)]
    heads = 2 * g.n_heads * g.head_dim  # q and o, or the two products of attention
    products = g.d_model * (heads + 2 * g.n_kv_heads * g.head_dim + 3 * g.ff_dim)
    return {
        "encoder": 2.0 * encoder,
        "bpe head": 2.0 * sum(-(-n // e.pooling_window) for n in frames) * width * e.bpe_vocab,
        "projector": 2.0 * (projector + p.n_layers * crossed),
        "editor": 2.0 * g.n_layers * sum(n * products + n * n * heads for n in rows),
        "text head": 2.0 * sum(texts) * g.d_model * g.vocab_size,
    }


def timed(device: torch.device, action: Callable[[], object], repeats: int = 5) -> float:
    """Median seconds of ten calls in a row, divided by ten, after two calls."""
    calls = 10 if device.type == "cuda" else 1
    found = []
    for repeat in range(repeats + 2):
        clock = Clock(device)
        clock.mark("start")
        for _ in range(calls):
            action()
        clock.mark("end")
        if repeat >= 2:
            found.append(clock.seconds()["end"] / calls)
    return median(found)


def rates(model: Batched, frames: int, rows: int, cube: int) -> tuple[dict[str, float], float]:
    """FLOP/s of products at the model's shapes and of a cube, and bytes/s of a copy."""
    e, g = model.config.encoder, model.config.editor
    shapes = {
        "encoder up": (frames, e.d_model, e.ff_dim),
        "encoder down": (frames, e.ff_dim, e.d_model),
        "editor up": (rows, g.d_model, g.ff_dim),
        "editor down": (rows, g.ff_dim, g.d_model),
        "head": (min(rows, model.head_rows), g.d_model, g.vocab_size),
        "cube": (cube, cube, cube),
    }
    device, found = model.device, {}
    for name, (m, k, n) in shapes.items():
        x = torch.randn(m, k, device=device, dtype=model.dtype)
        weight = torch.randn(n, k, device=device, dtype=model.dtype)
        found[name] = 2.0 * m * k * n / timed(device, lambda x=x, w=weight: F.linear(x, w))
    source = torch.empty(cube * cube * 8, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return found, 2 * source.numel() / timed(device, lambda: target.copy_(source))
