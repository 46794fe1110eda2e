"""Norms by our kernels and by ggml, against float64."""

from __future__ import annotations

from contextlib import closing

import numpy as np
import pytest

from granite_gguf.ggml import Graph, Norm, Products, Runtime, ShapeError, normed
from tests.test_products import FLOAT32, Array, each

EPS = 1e-5


def computed(
    kernel: str | None, threads: int, x: Array, weight: Array, shift: Array | None, skipped: int = 0
) -> Array:
    """Of the numbers of each row behind some others."""
    rows, width = x.shape
    inputs = {"x": x, "weight": weight} | ({} if shift is None else {"shift": shift})
    with Graph() as graph, closing(Runtime("cpu", threads)) as runtime:
        given = {name: graph.input(name, list(reversed(a.shape))) for name, a in inputs.items()}
        given["weight"].multiplier = Products(threads, kernel, exact=True) if kernel else None
        of = given["x"].columns(skipped, width - skipped)
        graph.output("y", normed(of, Norm(given["weight"], EPS, given.get("shift"))))
        y: Array = runtime.compute(graph, inputs)["y"]
    return y.reshape(rows, width - skipped)


@each(None, *FLOAT32)
@pytest.mark.parametrize("shifted", [False, True], ids=["mean square", "variance"])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    ("rows", "width", "skipped"), [(1, 1024, 0), (5, 256, 32), (2, 77, 0), (9, 40, 3), (4, 3, 0)]
)
def test_norms(
    kernel: str | None, *, shifted: bool, threads: int, rows: int, width: int, skipped: int
) -> None:
    """Of rows that lie apart, and whose mean is far from zero."""
    rng = np.random.default_rng(width)
    x = rng.normal(30, 2, (rows, skipped + width)).astype(np.float32)
    weight, shift = rng.standard_normal((2, width), dtype=np.float32)
    y = computed(kernel, threads, x, weight, shift if shifted else None, skipped)
    wide = x[:, skipped:].astype(np.float64)
    if shifted:
        wide -= wide.mean(1, keepdims=True)
    expected = wide / np.sqrt((wide**2).mean(1, keepdims=True) + EPS) * weight
    np.testing.assert_allclose(y, expected + shift * shifted, rtol=2e-5, atol=2e-5)


@each(*FLOAT32)
def test_a_mean_square_has_the_bits_of_ggml(kernel: str) -> None:
    x, weight = np.random.default_rng(0).standard_normal((2, 40, 512), dtype=np.float32)
    ours, ggml = (computed(name, 2, x, weight[0], None) for name in (kernel, None))
    np.testing.assert_array_equal(ours, ggml)


@each(*FLOAT32)
def test_rows_without_variance_and_without_numbers(kernel: str) -> None:
    """The difference of squares may come out below zero, which has no root."""
    x = np.full((3, 48), 1e6 / 3, np.float32)
    x[1, 7], x[2, 9] = np.nan, np.inf
    y = computed(kernel, 1, x, np.ones(48, np.float32), np.full(48, 0.5, np.float32))
    assert np.abs(y[0] - 0.5).max() < 10  # what is left of the mean's rounding
    assert np.isnan(y[1]).all() and np.isnan(y[2]).any()


def test_what_does_not_fit(runtime: Runtime) -> None:
    with Graph() as graph:
        x, weight = graph.input("x", [32, 4]), graph.input("w", [31])
        weight.multiplier = Products(1, None, exact=True)
        with pytest.raises(ShapeError, match="norm"):
            normed(x, Norm(weight, EPS))
