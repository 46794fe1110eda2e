"""BPE CTC head on posterior-pooled frames: the encoder's final state to a first hypothesis.

    final [D, T], blank [1, T] → weighted means of 4 frames [D, ceil(T/4)] → logits

Frames that the character head takes for blank count little in their window's mean.
"""

from __future__ import annotations

from granite_gguf.ggml import Graph, Tensor
from granite_gguf.graph.layers import Weights, linear, total

POOLING_EPS = 1e-8

HEAD = "enc.bpe_out"


def build_hypothesis(graph: Graph, w: Weights, window: int, width: int, frames: int) -> None:
    """Declare pooling and head over ``frames`` frames of ``width`` channels, in whole windows.

    Inputs: ``final`` ``[D, T]``, ``blank`` ``[1, T]``; what fills up a window is zeros and surely
    blank, so that it weighs nothing. Outputs: ``bpe_logits``, the vocabulary's
    and the zeros that fill up the head's rows; ``sums`` ``[1, windows]`` of the pooled states,
    finite where those are. Tap: ``pooled`` ``[D, windows]``.
    """
    speech = graph.input("blank", [1, frames]).scale_shift(-1.0, 1.0)
    pooled = graph.tap("pooled", pool(window, graph.input("final", [width, frames]), speech))
    graph.output("sums", pooled.sum_rows())
    graph.output("bpe_logits", linear(w, HEAD, pooled))


def pool(window: int, final: Tensor, speech: Tensor) -> Tensor:
    """Means ``[D, windows]`` of so many frames ``final`` ``[D, T]``, in whole windows.

    Args:
        window: frames.
        final: the encoder's final state.
        speech: ``[1, T]``, the weight of each.
    """
    weighted = final * speech
    summed = total([weighted.every(window, k) for k in range(window)])
    weight = total([speech.every(window, k) for k in range(window)])
    return summed / weight.scale_shift(1.0, POOLING_EPS)
