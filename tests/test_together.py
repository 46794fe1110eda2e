"""Few columns times several weights in one operation, and attention that keeps new keys, beside the
same operations one by one: bit for bit, for a text is to be the same however many rows a step has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import pytest

from granite_gguf.ggml import (
    F16,
    F32,
    I32,
    MOST_COLUMNS,
    GGMLType,
    Graph,
    Norm,
    Products,
    Runtime,
    ShapeError,
    State,
    Tensor,
    Then,
    WeightBuffer,
    added_product,
    attend_few,
    concat,
    linear,
    normed_swiglu,
    products_together,
)
from tests.test_products import Array, each, stored_and_decoded

KERNELS = ("avx512-vnni", "avx512-bf16", "avx512-fma", "avx-vnni", "avx2-int8", "avx2-fma")
WIDTH, EPS, SCALE = 256, 1e-5, 0.22
ROWS = (64, 96, 160)  # of a width that all types have; some pieces, and a part of one
Built = Callable[[list[Tensor], Tensor, Norm], Tensor]


def computed(
    built: Built, kinds: Sequence[str], kernel: str, columns: int, threads: int, *, watched: bool
) -> tuple[list[Array], Array, Array, Array]:
    """The results of some runs of a graph with weights, their numbers, the last x, and the norm's
    weight.
    """
    rng = np.random.default_rng(columns)
    contents = [stored_and_decoded(k, n, WIDTH) for k, n in zip(kinds, ROWS, strict=False)]
    x = 3 * rng.standard_normal((columns, WIDTH), dtype=np.float32)
    scales = rng.standard_normal(WIDTH, dtype=np.float32)
    with Runtime("CPU", threads=threads) as runtime:
        buffer = WeightBuffer(runtime, len(kinds) + 1)
        products = Products(threads, kernel, exact=True)
        weights = [
            buffer.add(f"w{n}", [WIDTH, len(decoded)], GGMLType[kind])
            for n, (kind, (_, decoded)) in enumerate(zip(kinds, contents, strict=True))
        ]
        norm = Norm(buffer.add("norm", [WIDTH], F32), EPS)
        buffer.allocate()
        for n, (weight, (stored, _)) in enumerate(zip(weights, contents, strict=True)):
            weight.multiplier = products
            buffer.fill(f"w{n}", stored)
        buffer.fill("norm", scales)
        with Graph(watched=watched) as graph:
            graph.output("y", built(weights, graph.input("x", [WIDTH, columns]), norm))
            kept = runtime.keep(graph)
            found = [kept.run({"x": n * x})["y"].reshape(columns, -1) for n in (-2, 3, 1)]
            kept.close()
        buffer.close()
    return found, np.concatenate([decoded for _, decoded in contents]), x, scales


def normed(x: Array, scales: Array) -> npt.NDArray[np.float64]:
    wide = x.astype(np.float64)
    result: npt.NDArray[np.float64] = wide / np.sqrt((wide**2).mean(1, keepdims=True) + EPS)
    return result * scales


def side_by_side(weights: list[Tensor], x: Tensor, norm: Norm) -> Tensor:
    together = products_together(weights, x, norm)
    if together is not None:
        return together
    x = x.rms_norm(norm.eps) * norm.weight
    return concat([linear(weight, x, None) for weight in weights], 0)


def gated(weights: list[Tensor], x: Tensor, norm: Norm) -> Tensor:
    return normed_swiglu(weights[0], weights[0], x, norm)


def added(weights: list[Tensor], x: Tensor, _: Norm) -> Tensor:
    """To rows that lie between others."""
    (weight,) = weights
    return added_product(weight, x, SCALE, x.columns(32, weight.ne[1]))


@each(*KERNELS)
@pytest.mark.parametrize("columns, threads", [(1, 2), (2, 1), (MOST_COLUMNS, 3)])
@pytest.mark.parametrize(
    "built, kinds",
    [
        (side_by_side, ("Q4_K", "Q6_K", "Q8_0")),
        (side_by_side, ("BF16", "BF16", "BF16")),
        (side_by_side, ("F16", "F16")),
        (side_by_side, ("F32",)),
        (gated, ("Q4_K",)),
        (gated, ("BF16",)),
        (added, ("Q4_K",)),
        (added, ("BF16",)),
    ],
    ids=lambda value: value.__name__ if callable(value) else "-".join(value),
)
def test_the_bits_of_operations_one_by_one(
    kernel: str, built: Built, kinds: Sequence[str], columns: int, threads: int
) -> None:
    """In every run of a graph, whichever thread took which rows."""
    found, weight, x, scales = computed(built, kinds, kernel, columns, threads, watched=False)
    one_by_one, *_ = computed(built, kinds, kernel, columns, threads, watched=True)
    np.testing.assert_array_equal(found, one_by_one)
    wanted = (x if built is added else normed(x, scales)) @ weight.T.astype(np.float64)
    if built is gated:
        wanted = wanted * wanted / (1 + np.exp(-wanted))
    elif built is added:
        wanted = SCALE * wanted + x[:, 32 : 32 + len(weight)]
    # Activations of 8 bits, or of bfloat16, in sums of 256.
    np.testing.assert_allclose(found[-1], wanted, atol=0.03 * np.abs(wanted).max())


def nodes_of(weights: list[Tensor], x: Tensor, norm: Norm | None, **more: object) -> Tensor | None:
    return products_together(weights, x, norm, **more)  # type: ignore[arg-type]


@each(*KERNELS)
def test_what_is_not_computed_together(runtime: Runtime, kernel: str) -> None:
    buffer = WeightBuffer(runtime, 3)
    first, odd, other = (
        buffer.add(name, [WIDTH, rows], GGMLType["Q8_0"])
        for name, rows in (("a", 64), ("b", 33), ("c", 64))
    )
    products = Products(2, kernel, exact=True)
    with Graph() as graph, Graph(watched=True) as watched:
        x = graph.input("x", [WIDTH, MOST_COLUMNS])
        assert nodes_of([first], x, None) is None  # nothing of ours multiplies with it
        first.multiplier = odd.multiplier = products
        assert nodes_of([first, other], x, None) is None
        assert nodes_of([odd, first], x, None) is None
        assert nodes_of([first], graph.input("many", [WIDTH, MOST_COLUMNS + 1]), None) is None
        assert nodes_of([first], watched.input("x", [WIDTH, 1]), None) is None
        other.multiplier = products
        if nodes_of([first, other], x, None) is None:
            pytest.skip("a kernel that decodes panels")
        for then, to in ((Then.GATED, x), (Then.ADDED, None), (Then.ADDED, x)):
            with pytest.raises(ShapeError, match="together"):
                nodes_of([first, other], x, None, then=then, to=to)
    buffer.close()


@each("avx512-fma", "avx2-fma", "generic")
@pytest.mark.parametrize("kind", [F16, F32])
@pytest.mark.parametrize("queries", [1, 3])
def test_attention_keeps_new_keys_and_values(
    runtime: Runtime, kernel: str, kind: GGMLType, queries: int
) -> None:
    """At their positions, rounded to F16 as numpy does, before they are seen."""
    rng = np.random.default_rng(queries)
    heads, kv_heads, dim, keys = 4, 2, 16, 24
    q = rng.standard_normal((queries, heads, dim), dtype=np.float32)
    k, v = 10.0 ** rng.uniform(-9, 4.5, (2, queries, kv_heads, dim)).astype(np.float32)
    k[0, 0, :4] = (65520, -65519.9, 2.0**-25, -(2.0**-24))
    mask = np.zeros((queries, keys), np.float16)
    mask[:, queries + 5 :] = -np.inf
    at = np.arange(5, 5 + queries, dtype=np.int32)

    def run(*, once: bool) -> tuple[Array, Array]:
        with State(runtime, 2) as state, Graph() as graph:
            kept = [state.add(name, [dim * kv_heads, keys], kind) for name in "kv"]
            state.place("A test", "None")
            given = [
                graph.input(name, list(reversed(value.shape)))
                for name, value in (("q", q), ("k", k), ("v", v))
            ]
            masked, places = (
                graph.input("mask", [keys, queries], F16),
                graph.input("at", [queries], I32, below=keys),
            )
            new = [tensor.permute(0, 2, 1, 3) for tensor in given[1:]]
            rows = [tensor.reshape(dim * kv_heads, queries) for tensor in given[1:]]
            held = [
                tensor.beside(masked) if once else tensor.with_rows(row, places)
                for tensor, row in zip(kept, rows, strict=True)
            ]
            size = held[0].nb[0]
            seen = [
                tensor.view([dim, kv_heads, keys], [dim * size, tensor.nb[1]]).permute(0, 2, 1, 3)
                for tensor in held
            ]
            graph.output("y", attend_few(
                given[0].permute(0, 2, 1, 3), *seen, 0.1, masked, kernel,
                (new[0], new[1], places) if once else None,
            ))  # fmt: skip
            inputs = {"q": q, "k": k, "v": v, "mask": mask, "at": at}
            return runtime.compute(graph, inputs)["y"], state.read("k")

    with np.errstate(over="ignore"):
        rounded = k.astype(np.float16 if kind is F16 else np.float32)
    (y, stored), (expected, stored_alone) = run(once=True), run(once=False)
    np.testing.assert_array_equal(stored[5 : 5 + queries].reshape(k.shape), rounded)
    np.testing.assert_array_equal(stored, stored_alone)
    np.testing.assert_array_equal(y, expected)
