"""Attention of few queries by our kernels, against float64."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from granite_gguf.ggml import F16, F32, Graph, Runtime, attend_few
from tests.test_products import FLOAT32, Array, each


def attended(
    runtime: Runtime,
    kernel: str,
    q: Array,
    k: npt.NDArray[np.floating],
    v: npt.NDArray[np.floating],
    mask: npt.NDArray[np.float16],
) -> Array:
    """Queries ``(n, heads, head_dim)``, keys and values ``(keys, kv_heads, head_dim)``."""
    kind = F16 if k.dtype == np.float16 else F32
    with Graph() as graph:
        given = [
            graph.input("q", list(reversed(q.shape))),
            *(graph.input(name, list(reversed(k.shape)), kind) for name in "kv"),
        ]
        heads = [tensor.permute(0, 2, 1, 3) for tensor in given]
        masked = graph.input("mask", list(reversed(mask.shape)), F16)
        graph.output("y", attend_few(*heads, 0.1, masked, kernel))
        found = runtime.compute(graph, {"q": q, "k": k, "v": v, "mask": mask})["y"]
    return np.asarray(found[0])


@each(*FLOAT32)
@pytest.mark.parametrize("dtype", [np.float16, np.float32], ids=["F16", "F32"])
@pytest.mark.parametrize(
    "head_dim, heads, kv_heads, queries, keys",
    [(128, 16, 4, 33, 256), (64, 6, 2, 5, 37), (16, 4, 4, 3, 20), (80, 4, 1, 1, 19)],
)
def test_attention_of_few_queries(
    runtime: Runtime,
    kernel: str,
    dtype: type[np.floating],
    head_dim: int,
    heads: int,
    kv_heads: int,
    queries: int,
    keys: int,
) -> None:
    """As float64 has it; alone and beside others the same bits, whatever lies behind the keys."""
    rng = np.random.default_rng(0)
    q = 4 * rng.standard_normal((queries, heads, head_dim), dtype=np.float32)
    k, v = rng.standard_normal((2, keys, kv_heads, head_dim)).astype(dtype)
    last = keys - queries - 2 + np.arange(queries)  # that each one sees
    mask = np.where(np.arange(keys) <= last[:, None], 0, -np.inf).astype(np.float16)
    found = attended(runtime, kernel, q, k, v, mask)
    shared = np.repeat(np.stack([k, v]).astype(np.float64), heads // kv_heads, axis=2)
    scores = 0.1 * np.einsum("qhd,khd->qhk", q, shared[0]) + mask[:, None].astype(np.float64)
    odds = np.exp(scores - scores.max(axis=2, keepdims=True))
    wanted = np.einsum("qhk,khd->qhd", odds / odds.sum(axis=2, keepdims=True), shared[1])
    np.testing.assert_allclose(found, wanted, atol=5e-6)
    n = queries - 1
    longer = np.concatenate([np.stack([k, v]), np.full_like(np.stack([k, v]), np.nan)], axis=1)
    behind = np.concatenate([mask[n:], np.full_like(mask[n:], -np.inf)], axis=1)
    alone = attended(runtime, kernel, q[n:], *longer, behind)
    np.testing.assert_array_equal(alone[0], found[n])
