"""A pass of many recordings, from features in host memory to ids in host memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.batched.floor import Clock
from benchmarks.batched.model import Batched
from granite_gguf.reference.decoding import collapse, hypothesis_tokens, insert_slots

Ints = np.ndarray[Any, np.dtype[np.int64]]


class Graphed:
    """A function of tensors, recorded at its first call with their shapes, played at later ones."""

    def __init__(self, function: Callable[..., Any], pool: Any) -> None:
        self.function, self.pool = function, pool  # of memory, shared: one plays at a time
        self.kept: dict[Any, tuple[torch.cuda.CUDAGraph, list[Tensor], Any]] = {}

    def __call__(self, *arguments: Any) -> Any:
        given = [x for argument in arguments for x in _tensors(argument)]
        shapes = tuple(x.shape for x in given)
        if shapes not in self.kept:
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):  # libraries set themselves up outside of the record
                self.function(*arguments)
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self.pool):
                out = self.function(*arguments)
            self.kept[shapes] = graph, given, out
        graph, static, out = self.kept[shapes]
        for here, new in zip(static, given, strict=True):
            if here is not new:  # another record's output is where it was
                here.copy_(new)
        graph.replay()
        return out


def _tensors(argument: Any) -> list[Tensor]:
    if isinstance(argument, Tensor):
        return [argument]
    return [x for x in argument if isinstance(x, Tensor)] if isinstance(argument, list) else []


@dataclass
class Ids:
    """What a pass found, by recording."""

    hypotheses: list[list[int]]
    texts: list[list[int]]  # with slots
    edited: list[list[int]]  # the best id of every text row
    tokens: list[list[int]]  # collapsed
    rows: Tensor  # final states of all text rows, until the next pass


class Runner:
    """Passes from features to ids."""

    def __init__(self, model: Batched, graphs: bool = False) -> None:
        self.model, self.config = model, model.config
        pool = torch.cuda.graph_pool_handle() if graphs else None

        def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
            return Graphed(function, pool) if graphs else function

        self.encode, self.hear, self.project = map(wrap, (model.encode, model.hear, model.project))
        self.edit, self.read = map(wrap, (model.edit, lambda x: model.best(x, model.embed_tokens)))

    def upload(self, array: Ints | Tensor) -> Tensor:
        host = torch.as_tensor(array)
        if self.model.device.type == "cuda" and not host.is_pinned():
            host = host.pin_memory()
        return host.to(self.model.device, non_blocking=True)

    def run(
        self,
        features: Tensor,
        frames: Sequence[int],
        clock: Clock,
        forced: Sequence[list[int]] | None = None,
    ) -> Ids:
        """Features (B, T, 160) on the host, their frames (B); `forced` are the tokens of slots."""
        rules, window = self.config.semantics, self.config.encoder.pooling_window
        counts = np.asarray(frames)
        equal = len(set(frames)) == 1
        clock.mark("start")
        on_device = None if equal else self.upload(counts)
        states, pooled = self.encode(self.upload(features), on_device)
        clock.mark("encoder")
        windows = -(-counts // window)
        index = None if equal else self.upload(_places(windows, pooled.shape[1]))
        heard = self.hear(pooled, index)
        heard = heard.to("cpu", non_blocking=True)
        clock.mark("bpe head")
        arrived = torch.cuda.Event() if clock.cuda else None
        if arrived is not None:
            arrived.record()
        audio = self.project(states, on_device)
        clock.mark("projector")
        if arrived is not None:
            arrived.synchronize()
        hypotheses = [
            hypothesis_tokens(ids, rules.bpe_blank_id, rules.bpe_id_shift)
            for ids in _cut(heard.tolist(), windows)
        ]
        chosen = hypotheses if forced is None else forced
        texts = [insert_slots(ids, rules.slot_id, rules.min_edit_length) for ids in chosen]
        lengths = np.array([len(ids) for ids in texts])
        tokens = counts // self.config.projector.downsample
        source, text_rows = _layout(tokens, lengths, audio.shape[1])
        real = tokens + lengths
        flat = np.concatenate([np.asarray(ids, np.int64) for ids in texts])
        uploaded = self.upload(np.concatenate([flat, source.ravel(), text_rows]))
        ids, places, text_rows_there = uploaded.split([len(flat), source.size, len(flat)])
        padded = None if (real == real[0]).all() else self.upload(real)
        clock.mark("hypothesis")
        last = self.edit(audio, ids, places.view(source.shape), text_rows_there, padded)
        clock.mark("editor")
        edited = self.read(last)
        clock.mark("text head")
        best = _cut(edited.tolist(), lengths)
        found = [collapse(ids, rules.slot_id) for ids in best]
        clock.mark("text")
        return Ids(hypotheses, texts, best, found, last)


def _cut(ids: list[int], lengths: Ints) -> list[list[int]]:
    ends = np.cumsum(lengths)
    return [ids[end - n : end] for end, n in zip(ends, lengths, strict=True)]


def _places(counts: Ints, width: int) -> Ints:
    """Which of B * width rows are the first `counts` of their recording."""
    return np.flatnonzero(np.arange(width) < counts[:, None])


def _layout(tokens: Ints, lengths: Ints, width: int) -> tuple[Ints, Ints]:
    """Editor rows (B, N) by place in [audio (B * width), texts], and where the texts stand."""
    batch = len(tokens)
    source = np.zeros((batch, (tokens + lengths).max()), np.int64)
    place = np.arange(source.shape[1])
    is_audio = place < tokens[:, None]
    is_text = ~is_audio & (place < (tokens + lengths)[:, None])
    source[is_audio] = (np.arange(batch)[:, None] * width + place)[is_audio]
    source[is_text] = batch * width + np.arange(lengths.sum())
    return source, np.flatnonzero(is_text)
