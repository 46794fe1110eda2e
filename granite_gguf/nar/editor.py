"""The editor: audio tokens and a hypothesis with slots to an edited text.

    rows [2048, audio + text] → 40 Granite layers → text rows [2048, text] → tied head → logits

One pass, no mask, no cache: all rows of a recording see one another. The audio rows of the last
layer serve only as its keys and values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from granite_gguf.ggml import I32, Graph, Tensor, concat
from granite_gguf.graph.granite import Stream, granite_head, granite_layer
from granite_gguf.graph.layers import Weights, rms_norm
from granite_gguf.nar.spec import Editor
from granite_gguf.spec.tensors import NLE_NAMES


@dataclass(frozen=True)
class EditorRows:
    """Rows of a recording: its audio tokens, then its text."""

    audio: int
    text: int

    @property
    def count(self) -> int:
        return self.audio + self.text


def build_editor(graph: Graph, w: Weights, e: Editor, recordings: Sequence[EditorRows]) -> None:
    """Declare the layers over the rows of recordings, N in total.

    Inputs: ``rows`` ``[d_model, N]``, the embeddings before their multiplier, one recording after
    another; ``positions`` I32 ``[N]`` and ``text_positions`` I32, those of the text rows alone.
    Output: ``state`` ``[d_model, text rows]``.
    """
    counts, texts = [r.count for r in recordings], [r.text for r in recordings]
    rows = graph.input("rows", [e.d_model, sum(counts)]) * e.embedding_multiplier
    x = Stream(rows, graph.input("positions", [sum(counts)], I32), counts)
    text_positions = graph.input("text_positions", [sum(texts)], I32)
    for n in range(e.n_layers - 1):
        x = replace(x, x=granite_layer(w, NLE_NAMES, n, e, x, x))
    text = Stream(_text_rows(x.x, recordings), text_positions, texts)
    graph.output("state", granite_layer(w, NLE_NAMES, e.n_layers - 1, e, x, text))


def _text_rows(x: Tensor, recordings: Sequence[EditorRows]) -> Tensor:
    parts = x.divided([r.count for r in recordings])
    texts = [part.rows(r.audio, r.text) for part, r in zip(parts, recordings, strict=True)]
    return concat(texts, 1)


def build_editor_head(graph: Graph, w: Weights, e: Editor, rows: int) -> None:
    """Declare the head over some text rows, for the vocabulary makes a row long.

    Input: ``state`` ``[d_model, rows]``. Outputs: ``editing_logits``, not divided by
    ``logits_scaling``; ``sums`` ``[1, rows]`` of the normed states, finite where those are.
    """
    x = rms_norm(w, NLE_NAMES.norm, graph.input("state", [e.d_model, rows]), e.rms_norm_eps)
    graph.output("sums", x.sum_rows())
    graph.output("editing_logits", granite_head(w, NLE_NAMES, x))
