"""Tensors joined by our kernels and by ggml, against numpy."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

import numpy as np
import pytest

from granite_gguf.ggml import Graph, Products, Runtime, ShapeError, concat
from granite_gguf.ggml.kernels import GENERIC
from tests.test_products import Array, each


def joined(
    kernel: str | None, threads: int, arrays: Sequence[Array], dim: int, skipped: int
) -> Array:
    """All but the first numbers of each row, whole rows where none are skipped."""
    inputs = {f"part{n}": array for n, array in enumerate(arrays)}
    with Graph() as graph, closing(Runtime("cpu", threads)) as runtime:
        parts = [graph.input(name, list(reversed(a.shape))) for name, a in inputs.items()]
        parts[0].multiplier = Products(threads, kernel, exact=True) if kernel else None
        near = parts[0]
        if skipped:
            parts = [part.columns(skipped, part.ne[0] - skipped) for part in parts]
        graph.output("y", concat(parts, dim, near))
        y: Array = runtime.compute(graph, inputs)["y"]
    return y.reshape(y.shape[-3:])


@each(None, GENERIC)
@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize(
    ("dim", "shapes", "skipped"),
    [
        (0, [(7, 5), (7, 1), (7, 130)], 0),
        (0, [(5, 9), (5, 12)], 3),
        (0, [(3, 4)] * 20, 0),
        (1, [(200, 64), (150, 64)], 0),
        (1, [(1, 3), (2, 3), (1, 3)] * 7, 0),
        (1, [(4, 2, 6), (4, 5, 6), (4, 1, 6)], 0),
        (1, [(2, 3)], 0),
    ],
)
def test_concat(
    kernel: str | None, *, threads: int, dim: int, shapes: list[tuple[int, ...]], skipped: int
) -> None:
    rng = np.random.default_rng(len(shapes))
    arrays = [rng.standard_normal(shape, dtype=np.float32) for shape in shapes]
    expected = np.concatenate([a[..., skipped:] for a in arrays], axis=-1 - dim)
    y = joined(kernel, threads, arrays, dim, skipped)
    np.testing.assert_array_equal(y.reshape(expected.shape), expected)


@pytest.mark.parametrize("near", [True, False])
def test_what_does_not_fit(runtime: Runtime, *, near: bool) -> None:
    with Graph() as graph:
        x, y = graph.input("x", [32, 4]), graph.input("y", [31, 4])
        x.multiplier = Products(1, None, exact=True)
        with pytest.raises(ShapeError, match="concat"):
            concat([x, y], 1, x if near else None)


def test_rows_apart_are_no_piece(runtime: Runtime) -> None:
    """Our kernels copy what of a tensor belongs together at once."""
    with Graph() as graph:
        x = graph.input("x", [32, 4])
        x.multiplier = Products(1, None, exact=True)
        with pytest.raises(ShapeError, match="concat"):
            concat([x, x.columns(0, 32), x.every(2)], 1, x)
