"""The convolution of each channel by our kernels, against float64."""

from __future__ import annotations

from contextlib import closing

import numpy as np
import pytest

from granite_gguf.ggml import Graph, Products, Runtime, depthwise_conv_silu
from tests.test_products import FLOAT32, each


@each(None, *FLOAT32)
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    ("frames", "channels", "taps", "batch"),
    [(1, 16, 15, 1), (5, 80, 3, 2), (64, 64, 31, 1), (67, 144, 15, 3), (200, 32, 1, 1),
     (9, 32, 33, 1), (9, 20, 15, 2)],
)  # fmt: skip
def test_convolution(
    kernel: str | None, threads: int, frames: int, channels: int, taps: int, batch: int
) -> None:
    """Zeros on both sides of each recording; ggml does what no kernel has room for."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch, frames, channels), dtype=np.float32)
    weight = rng.standard_normal((taps, channels), dtype=np.float32)
    shift = 9 * rng.standard_normal(channels, dtype=np.float32)
    with Graph() as graph, closing(Runtime("cpu", threads)) as runtime:
        given = graph.input("taps", [channels, taps])
        given.multiplier = Products(threads, kernel, exact=True) if kernel else None
        inputs = graph.input("x", [channels, frames, batch]), graph.input("shift", [channels])
        graph.output("y", depthwise_conv_silu(given, *inputs))
        y = runtime.compute(graph, {"taps": weight, "x": x, "shift": shift})["y"]
    half = taps // 2
    around = np.pad(x.astype(np.float64), ((0, 0), (half, half), (0, 0)))
    sums = shift + sum(weight[k] * around[:, k : k + frames] for k in range(taps))
    np.testing.assert_allclose(y.reshape(x.shape), sums / (1 + np.exp(-sums)), atol=5e-5)
