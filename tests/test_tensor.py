"""Graph operations against numpy, and their refusal of what ggml would abort on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from granite_gguf.ggml import (
    F16,
    F32,
    I32,
    Graph,
    Runtime,
    ShapeError,
    Tensor,
    WeightBuffer,
    concat,
    depthwise_conv,
    flash_attention,
    mul_mat,
    swiglu,
)
from granite_gguf.graph import layers
from granite_gguf.graph.layers import attend
from tests.signals import uniform

Array = npt.NDArray[np.float32]
KINDS = {"float32": F32, "float16": F16, "int32": I32}


def noise(*shape: int, seed: int = 0) -> Array:
    return (2 * uniform(int(np.prod(shape)), seed) - 1).astype(np.float32).reshape(shape)


THREADS = 2


def run(runtime: Runtime, build: Callable[..., Tensor], **inputs: npt.NDArray[Any]) -> Array:
    with Graph() as graph:
        tensors = {
            name: graph.input(name, tuple(reversed(array.shape)), KINDS[array.dtype.name])
            for name, array in inputs.items()
        }
        graph.output("out", build(**tensors))
        return np.squeeze(runtime.compute(graph, inputs)["out"])


@pytest.mark.parametrize("frames", [1, 2, 7, 8, 15, 40])
def test_depthwise_conv_pads_with_zeros(runtime: Runtime, frames: int) -> None:
    x, taps = noise(frames, 32), noise(15, 32, seed=1)
    padded = np.pad(x, ((7, 7), (0, 0)))
    expected = sum(taps[k] * padded[k : k + frames] for k in range(15))
    actual = run(runtime, lambda x, k: depthwise_conv(k, x), x=x, k=taps)
    np.testing.assert_allclose(actual, np.squeeze(expected), atol=1e-5)


def test_gelu_is_exact(runtime: Runtime) -> None:
    # 0.5 x (1 + erf(x / sqrt 2)) at 1 and -2; the tanh form gives 0.841192 and -0.045402
    actual = run(runtime, lambda x: x.gelu_erf(), x=np.array([[1.0, -2.0]], np.float32))
    np.testing.assert_allclose(actual, [0.8413447, -0.0455003], atol=1e-6)


def test_norm_uses_the_population_variance(runtime: Runtime) -> None:
    # mean 2, variance 2/3
    actual = run(runtime, lambda x: x.norm(0.0), x=np.array([[1.0, 2.0, 3.0]], np.float32))
    np.testing.assert_allclose(actual, [-1.2247449, 0.0, 1.2247449], atol=1e-6)


def test_rope_turns_the_halves_together(runtime: Runtime) -> None:
    # head of 4 at position 1, theta 100: pairs (0, 2) by 1 rad and (1, 3) by 0.1 rad
    x = np.array([[[1.0, 2.0, 3.0, 4.0]]], np.float32)
    actual = run(runtime, lambda x, p: x.rope_neox(p, 100.0), x=x, p=np.array([1], np.int32))
    c, s, c2, s2 = np.cos(1.0), np.sin(1.0), np.cos(0.1), np.sin(0.1)
    expected = [c - 3 * s, 2 * c2 - 4 * s2, s + 3 * c, 2 * s2 + 4 * c2]
    np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_attention_shares_key_heads_between_consecutive_queries(runtime: Runtime) -> None:
    q, k, v = noise(4, 5, 8), noise(2, 6, 8, seed=1), noise(2, 6, 8, seed=2)
    actual = run(
        runtime,
        lambda q, k, v: attend(q, k, v, 0.3),
        q=q[None], k=k[None], v=v[None],
    )  # fmt: skip
    heads = []
    for head in range(4):
        scores = 0.3 * q[head] @ k[head // 2].T
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        heads.append(weights / weights.sum(axis=1, keepdims=True) @ v[head // 2])
    np.testing.assert_allclose(actual, np.concatenate(heads, axis=1), atol=1e-5)


class ByProducts:
    """A kernel that has no attention of its own."""

    def multiply(self, weight: Tensor, x: Tensor, *_: object) -> Tensor:
        return mul_mat(Tensor(weight.context, weight.handle), x)

    def attend(self, *_: object) -> None:
        return None

    def convolve(self, *_: object) -> None:
        return None


@pytest.mark.parametrize("halves", [False, True], ids=["F32", "F16"])
@pytest.mark.parametrize("multiplied", [False, True], ids=["fused", "by products"])
def test_attention_with_a_mask(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch, halves: bool, multiplied: bool
) -> None:
    """The mask is added to the scores of every head; both ways take it, some queries at a time."""
    monkeypatch.setattr(layers, "_SCORES", 1)
    monkeypatch.setattr(layers, "_FEWEST_QUERIES", 4)
    q, k, v = noise(4, 5, 8), noise(2, 6, 8, seed=1), noise(2, 6, 8, seed=2)
    hidden = np.tri(5, 6, 1) == 0
    mask = np.where(hidden, -np.inf, 0).astype(np.float16)
    kind = np.float16 if halves else np.float32

    def build(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        if multiplied:  # as a kernel of our own does it
            k.multiplier = v.multiplier = ByProducts()
        return attend(q, k, v, 0.3, mask)

    actual = run(runtime, build, q=q[None], k=k[None].astype(kind), v=v[None].astype(kind),
                 mask=mask)  # fmt: skip
    heads = []
    for head in range(4):
        odds = np.exp(0.3 * q[head] @ k[head // 2].T) * ~hidden
        heads.append(odds / odds.sum(axis=1, keepdims=True) @ v[head // 2])
    tolerance = 2e-3 if halves else 1e-5
    np.testing.assert_allclose(actual, np.concatenate(heads, axis=1), atol=tolerance)


def test_an_input_that_nothing_needs_is_refused(runtime: Runtime) -> None:
    with Graph() as graph:
        x, _ = graph.input("x", [8, 3]), graph.input("spare", [8, 3])
        graph.output("y", x.silu())
        with pytest.raises(ShapeError, match="spare, an input that no output needs"):
            runtime.compute(graph, {"x": noise(3, 8), "spare": noise(3, 8)})


def test_masks_that_do_not_fit_are_refused() -> None:
    with Graph() as graph:
        q, k = graph.input("q", [8, 5, 4]), graph.input("k", [8, 6, 2])
        half = graph.input("half", [8, 6, 2], F16)
        scores = graph.input("scores", [6, 5, 4])
        good = graph.input("mask", [6, 5], F16)
        flash_attention(q, k, k, 1.0, good)
        flash_attention(q, half, half, 1.0, good)
        scores.softmax(1.0, good)
        with pytest.raises(ShapeError, match="flash_attention"):
            flash_attention(q, k, half, 1.0)
        for bad in (
            graph.input("few", [5, 5], F16),
            graph.input("short", [6, 4], F16),
            graph.input("floats", [6, 5]),
            graph.input("heads", [6, 5, 4], F16),
            graph.input("wide", [12, 5], F16).columns(0, 6),
        ):
            with pytest.raises(ShapeError, match="flash_attention"):
                flash_attention(q, k, k, 1.0, bad)
            with pytest.raises(ShapeError, match="softmax"):
                scores.softmax(1.0, bad)


def test_swiglu_and_concat(runtime: Runtime) -> None:
    gate, up = noise(3, 8), noise(3, 8, seed=1)
    actual = run(runtime, lambda g, u: concat([swiglu(g, u), u], 0), g=gate, u=up)
    expected = np.concatenate([gate / (1 + np.exp(-gate)) * up, up], axis=1)
    np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_a_graph_of_equal_size_does_not_inherit_the_last_ones_memory(runtime: Runtime) -> None:
    """A tap reorders a graph without changing its size; ggml would keep the old placement."""
    buffer = WeightBuffer(runtime, 1)
    weight = buffer.add("w", [8, 8], F32)
    buffer.allocate()
    buffer.fill("w", noise(8, 8))
    results = []
    for taps in (frozenset({"half"}), frozenset(), frozenset({"half"})):
        with Graph(taps) as graph:
            x, y = graph.input("x", [8, 4]), graph.input("y", [8, 4])
            half = graph.tap("half", x + y)
            graph.output("out", mul_mat(weight, half) + x)
            inputs = {"x": noise(4, 8, seed=1), "y": noise(4, 8, seed=2)}
            results.append(runtime.compute(graph, inputs)["out"])
    buffer.close()
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


@pytest.mark.parametrize(
    "build",
    [
        mul_mat,
        lambda x, y: x + y,
        lambda x, y: x * y,
        swiglu,
        lambda x, y: concat([x, y], 0),
        depthwise_conv,
        lambda x, y: x.reshape(7, 3),
        lambda x, y: x.rows(2, 9),
        lambda x, y: x.columns(5, 4),
        lambda x, y: x.every(2),
        lambda x, y: x.permute(0, 0, 1, 2),
        lambda x, y: x.permute(1, 0, 2, 3).softmax(),
        lambda x, y: x.permute(1, 0, 2, 3).silu(),
        lambda x, y: x.rope_neox(y, 1e4),
    ],
)
def test_what_does_not_fit_is_refused_before_ggml(build: Callable[..., Tensor]) -> None:
    with Graph() as graph, pytest.raises(ShapeError):
        build(graph.input("x", [8, 3]), graph.input("y", [5, 4]))
