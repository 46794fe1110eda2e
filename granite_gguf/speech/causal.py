"""Causal Granite layers with a cache: rows of prompts and of what follows them, to logits.

    rows [2048, N] → × multiplier → 40 Granite layers, each adding to its cache → asked rows
        → norm → head → logits [vocabulary, asked]

Of the last layer, rows whose logits nobody asks for serve only as its keys and values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from granite_gguf.ggml import F16, I32, Graph, Tensor, concat
from granite_gguf.graph.granite import Cache, Stream, granite_layer, normed_head
from granite_gguf.graph.layers import Weights
from granite_gguf.spec.hparams import Granite
from granite_gguf.spec.tensors import LLAMA_NAMES


@dataclass(frozen=True)
class Continued:
    """Rows that a recording goes on with; what follows them in the same pass is another one.

    Attributes:
        rows: how many.
        keys: positions from the first on that they may see, their own among them.
        asked: rows at the end whose logits are wanted.
        cache: of each layer, what earlier rows left behind.
    """

    rows: int
    keys: int
    asked: int
    cache: Sequence[Cache]


def build_causal(graph: Graph, w: Weights, g: Granite, recordings: Sequence[Continued]) -> None:
    """Declare the layers over rows of recordings, N in total.

    Inputs: ``rows`` ``[d_model, N]``, embeddings and audio rows before their multiplier, one
    recording after another; ``positions`` I32 ``[N]``; ``asked_positions``, those of the asked rows
    alone, unless all are; of recording K, ``mask_K`` F16 ``[keys, rows]``. Output: ``logits``
    ``[vocabulary, asked]``, not divided by ``logits_scaling``.
    """
    counts = [r.rows for r in recordings]
    capacity = min(r.cache[0].keys.ne[1] for r in recordings)
    rows = graph.input("rows", [g.d_model, sum(counts)]) * g.embedding_multiplier
    positions = graph.input("positions", [sum(counts)], I32, below=capacity)
    x = Stream(rows, positions, counts)
    masks = [graph.input(f"mask_{k}", [r.keys, r.rows], F16) for k, r in enumerate(recordings)]
    of_asked = x.positions
    if not all_asked(recordings):
        of_asked = graph.input("asked_positions", [sum(r.asked for r in recordings)], I32)
    for n in range(g.n_layers):
        asked = x
        if n == g.n_layers - 1 and not all_asked(recordings):
            asked = Stream(_last_rows(x, recordings), of_asked, [r.asked for r in recordings])
            masks = [
                mask.rows(r.rows - r.asked, r.asked)
                for mask, r in zip(masks, recordings, strict=True)
            ]
        cache = [r.cache[n] for r in recordings]
        x = replace(asked, x=granite_layer(w, LLAMA_NAMES, n, g, x, asked, masks, cache))
    graph.output("logits", normed_head(w, LLAMA_NAMES, g, x.x))


def all_asked(recordings: Sequence[Continued]) -> bool:
    """Whether the logits of every row are wanted."""
    return all(r.asked == r.rows for r in recordings)


def _last_rows(x: Stream, recordings: Sequence[Continued]) -> Tensor:
    parts = zip(x.x.divided(x.counts), recordings, strict=True)
    return concat([part.rows(r.rows - r.asked, r.asked) for part, r in parts], 1)
