"""Attention by our kernels, against float64."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest

from granite_gguf.ggml import F16, F32, Graph, Runtime, attend_few
from granite_gguf.ggml.attention import attend_many
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


ROWS = (*FLOAT32, "avx512-bf16")
"""Kernels that have attention of many queries; the last one rounds to bfloat16."""


@dataclass(frozen=True)
class Case:
    head_dim: int
    heads: int
    kv_heads: int
    queries: int
    keys: int
    batch: int = 1
    masks: int = 0
    distances: bool = False


CASES = (
    Case(128, 16, 4, 77, 77),
    Case(128, 4, 4, 200, 200, 2, 0, True),
    Case(128, 2, 2, 150, 150, 1, 1, True),
    Case(16, 6, 3, 33, 50, 3, 3),
    Case(32, 2, 1, 1, 16, 2),
    Case(48, 1, 1, 25, 3, 1, 0, True),
    Case(64, 2, 2, 96, 1),
    Case(80, 2, 2, 41, 41, 2, 2, True),
)


@each(*ROWS)
@pytest.mark.parametrize("dtype", [np.float16, np.float32], ids=["F16", "F32"])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_attention_of_many_queries(
    kernel: str, dtype: type[np.floating], threads: int, case: Case
) -> None:
    """Heads that share keys, blocks, masks and distances, as float64 has them, by any threads."""
    rng = np.random.default_rng(0)
    shape = (case.batch, case.queries, case.heads, case.head_dim)
    q = rng.standard_normal(shape, dtype=np.float32)
    kv_shape = (2, case.batch, case.keys, case.kv_heads, case.head_dim)
    k, v = rng.standard_normal(kv_shape).astype(dtype)
    rows = case.queries + case.keys - 1 + 5
    arrays = {"q": q, "k": k, "v": v}
    if case.distances:
        arrays["distances"] = rng.standard_normal((rows, case.head_dim), dtype=np.float32)
    if case.masks:
        hidden = rng.random((case.masks, 1, case.queries, case.keys)) < 0.3
        hidden[..., 0] = False
        arrays["mask"] = np.where(hidden, -np.inf, 0).astype(np.float16)
    with Graph() as graph, closing(Runtime("cpu", threads)) as runtime:
        given = {
            name: graph.input(
                name, list(reversed(array.shape)), F16 if array.dtype == np.float16 else F32
            )
            for name, array in arrays.items()
        }
        heads = [given[name].permute(0, 2, 1, 3) for name in "qkv"]
        y = attend_many(
            *heads, 0.2, given.get("mask"), given.get("distances"), kernel=kernel, threads=threads
        )
        assert y is not None
        graph.output("y", y)
        found = runtime.compute(graph, arrays)["y"]
    shared = np.repeat(np.stack([k, v]).astype(np.float64), case.heads // case.kv_heads, axis=3)
    scores = np.einsum("bqhd,bkhd->bhqk", q.astype(np.float64), shared[0])
    if case.distances:
        at = case.queries - 1 - np.arange(case.queries)[:, None] + np.arange(case.keys)
        scores += np.einsum("bqhd,qkd->bhqk", q, arrays["distances"][at].astype(np.float64))
    scores = 0.2 * scores + arrays.get("mask", np.zeros(1)).astype(np.float64)
    odds = np.exp(scores - scores.max(axis=3, keepdims=True))
    odds /= odds.sum(axis=3, keepdims=True)
    wanted = np.einsum("bhqk,bkhd->bqhd", odds, shared[1])
    tolerance = 0.03 if kernel == "avx512-bf16" else 2e-5
    np.testing.assert_allclose(found, wanted, atol=tolerance)
