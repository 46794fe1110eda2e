"""The Granite layers as a causal model, with and without a cache, against PyTorch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from granite_gguf import InputError
from granite_gguf.ggml import F16, F32, I32, Graph, KeptGraph, Runtime, ShapeError, State, Tensor
from granite_gguf.graph.granite import Cache, Stream, causal_mask, granite_head, granite_layer
from granite_gguf.graph.layers import rms_norm
from granite_gguf.spec.tensors import LLAMA_NAMES
from tests.causal import EXPECTED, GRANITE, TOKENS, torch_logits, weights
from tests.placing import placed_weights

Logits = npt.NDArray[np.float32]
CAPACITY = 32
CLOSE = 2e-5  # float32 in another order; the logits reach 4
F16_CLOSE = 2e-2  # keys and values with 11 bits, values summed in F16


@pytest.fixture(scope="module")
def placed(runtime: Runtime) -> Iterator[dict[str, Tensor]]:
    with placed_weights(runtime, weights()) as tensors:
        yield tensors


@pytest.fixture(scope="module")
def expected() -> dict[str, Logits]:
    with np.load(EXPECTED) as file:
        return dict(file)


@pytest.mark.parametrize("tied", [True, False])
def test_the_expected_logits_are_those_of_transformers(
    expected: dict[str, Logits], tied: bool
) -> None:
    pytest.importorskip("transformers.models.granite")
    found = torch_logits(tied=tied)
    np.testing.assert_allclose(found, expected["tied" if tied else "untied"], atol=1e-5)


def declare(
    graph: Graph,
    w: dict[str, Tensor],
    counts: Sequence[int],
    keys: Sequence[int],
    caches: Sequence[Sequence[Cache]] | None = None,
    asked: int | None = None,
) -> None:
    """Layers over rows of recordings; ``asked``: of the only one, so many rows at its end."""
    g, n = GRANITE, sum(counts)
    rows = graph.input("rows", [g.d_model, n]) * g.embedding_multiplier
    x = Stream(rows, graph.input("positions", [n], I32, below=CAPACITY), counts)
    mask = [
        graph.input(f"mask{k}", [m, c], F16)
        for k, (m, c) in enumerate(zip(keys, counts, strict=True))
    ]
    for layer in range(g.n_layers):
        wanted, last = x, layer == g.n_layers - 1
        if asked is not None and last:
            positions = x.positions.view([asked], [], (n - asked) * 4)
            wanted = Stream(x.x.rows(n - asked, asked), positions, [asked])
            mask = [mask[0].rows(n - asked, asked)]
        cache = None if caches is None else [of[layer] for of in caches]
        x = replace(x, x=granite_layer(w, LLAMA_NAMES, layer, g, x, wanted, mask, cache))
    graph.output(
        "logits", granite_head(w, LLAMA_NAMES, rms_norm(w, LLAMA_NAMES.norm, x.x, g.rms_norm_eps))
    )


def given(parts: Sequence[npt.NDArray[np.int64]], keys: Sequence[int]) -> dict[str, object]:
    """Inputs of positions ``parts`` of the tokens."""
    positions = np.concatenate(parts)
    rows = weights()[LLAMA_NAMES.embedding][TOKENS[positions]]
    masks = {
        f"mask{k}": causal_mask(part, m)
        for k, (part, m) in enumerate(zip(parts, keys, strict=True))
    }
    return {"rows": rows, "positions": positions.astype(np.int32), **masks}


def matrix(array: npt.NDArray[np.float32]) -> Logits:
    return array.reshape(array.shape[-2:])


@pytest.fixture
def states(runtime: Runtime) -> Iterator[list[State]]:
    with ExitStack() as stack:
        made = []
        for kind in (F32, F16):
            state = stack.enter_context(State(runtime, 2 * GRANITE.n_layers))
            width = GRANITE.head_dim * GRANITE.n_kv_heads
            for layer in range(GRANITE.n_layers):
                state.add(f"k{layer}", [width, CAPACITY], kind)
                state.add(f"v{layer}", [width, CAPACITY], kind)
            state.place("A cache", "Use a smaller one")
            made.append(state)
        yield made


def cache_of(state: State) -> list[Cache]:
    names = range(GRANITE.n_layers)
    return [Cache(state.tensors[f"k{n}"], state.tensors[f"v{n}"]) for n in names]


class Decoder:
    """Runs the tokens a few at a time, by a kept graph for each number of rows and keys seen."""

    def __init__(self, runtime: Runtime, w: dict[str, Tensor], state: State) -> None:
        self.runtime, self.w, self.cache = runtime, w, cache_of(state)
        self.graphs: dict[tuple[int, int], KeptGraph] = {}
        self.stack = ExitStack()

    def step(self, positions: npt.NDArray[np.int64], *, shift: int = 0, bucket: int = 8) -> Logits:
        keys = -(-(int(positions[-1]) + 1) // bucket) * bucket
        kind = (len(positions), keys)
        if kind not in self.graphs:
            graph = self.stack.enter_context(Graph(nodes=512))
            declare(graph, self.w, [len(positions)], [keys], [self.cache])
            self.graphs[kind] = self.stack.enter_context(self.runtime.keep(graph))
        inputs = given([positions], [keys])
        inputs["positions"] = inputs["positions"] + np.int32(shift)
        return matrix(self.graphs[kind].run(inputs)["logits"])

    def run(self, first: int = 1, **how: int) -> Logits:
        """All tokens: ``first`` together, then one by one."""
        every = np.arange(len(TOKENS))
        parts = [every[:first], *(every[n : n + 1] for n in range(first, len(every)))]
        return np.concatenate([self.step(part, **how) for part in parts])

    def __enter__(self) -> Decoder:
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()


@pytest.mark.parametrize("tied", [True, False])
def test_one_causal_pass(
    runtime: Runtime, placed: dict[str, Tensor], expected: dict[str, Logits], tied: bool
) -> None:
    w = {name: tensor for name, tensor in placed.items() if not (tied and name == LLAMA_NAMES.head)}
    every = np.arange(len(TOKENS))
    with Graph() as graph:
        declare(graph, w, [len(every)], [len(every)])
        found = matrix(runtime.compute(graph, given([every], [len(every)]))["logits"])
    np.testing.assert_allclose(found, expected["tied" if tied else "untied"], atol=CLOSE)


def test_without_the_mask_it_is_another_model(
    runtime: Runtime, placed: dict[str, Tensor], expected: dict[str, Logits]
) -> None:
    every = np.arange(len(TOKENS))
    with Graph() as graph:
        declare(graph, placed, [len(every)], [len(every)])
        inputs = given([every], [len(every)])
        inputs["mask0"] = np.zeros_like(inputs["mask0"])
        found = matrix(runtime.compute(graph, inputs)["logits"])
    wrong = np.abs(found - expected["untied"]).max(axis=1)
    assert wrong[0] > 0.05 and wrong[:-1].min() > 100 * CLOSE


@pytest.mark.parametrize("first", [1, 9])
def test_token_by_token_with_a_cache(
    runtime: Runtime,
    placed: dict[str, Tensor],
    states: list[State],
    expected: dict[str, Logits],
    first: int,
) -> None:
    for state, tolerance in zip(states, (CLOSE, F16_CLOSE), strict=True):
        with Decoder(runtime, placed, state) as decoder:
            found = decoder.run(first)
            assert len(decoder.graphs) == 3 + (first > 1) - (first > 8)  # by buckets of 8 keys
        np.testing.assert_allclose(found, expected["untied"], atol=tolerance)
        assert np.abs(state.read("k0")[: len(TOKENS)]).min(axis=1).all()
        assert not state.read("v2")[len(TOKENS) :].any()


def test_a_second_recording_does_not_see_the_first(
    runtime: Runtime, placed: dict[str, Tensor], states: list[State], expected: dict[str, Logits]
) -> None:
    """What an earlier one left behind the end lies under the mask."""
    with Decoder(runtime, placed, states[0]) as decoder:
        decoder.run()
        again = decoder.step(np.arange(3), bucket=CAPACITY)
    np.testing.assert_allclose(again, expected["untied"][:3], atol=CLOSE)


@pytest.mark.parametrize("mistake", ["position", "stale", "mask"])
def test_mistakes_show(
    runtime: Runtime,
    placed: dict[str, Tensor],
    states: list[State],
    expected: dict[str, Logits],
    mistake: str,
) -> None:
    """A position off by one, a cache that was not written, and a mask that hides too little."""
    last = np.array([len(TOKENS) - 1])
    with Decoder(runtime, placed, states[0]) as decoder:
        decoder.run(len(TOKENS) - 1)
        if mistake == "stale":
            states[0].clear()
        found = decoder.step(last, shift=int(mistake == "position"))
        if mistake == "mask":
            (graph,) = (kept for kind, kept in decoder.graphs.items() if kind[0] == 1)
            inputs = given([last], [24])
            inputs["mask0"][:] = 0
            found = matrix(graph.run(inputs)["logits"])
    assert np.abs(found - expected["untied"][-1]).max() > 100 * CLOSE


def test_recordings_of_a_batch_have_caches_of_their_own(
    runtime: Runtime, placed: dict[str, Tensor], states: list[State], expected: dict[str, Logits]
) -> None:
    parts = [np.arange(7), np.arange(12)]
    with Graph() as graph:
        declare(graph, placed, [7, 12], [8, 16], [cache_of(state) for state in states])
        found = matrix(runtime.compute(graph, given(parts, [8, 16]))["logits"])
    np.testing.assert_allclose(found[:7], expected["untied"][:7], atol=CLOSE)
    np.testing.assert_allclose(found[7:], expected["untied"][:12], atol=F16_CLOSE)


def test_only_the_last_row_is_asked_for(
    runtime: Runtime, placed: dict[str, Tensor], states: list[State], expected: dict[str, Logits]
) -> None:
    every = np.arange(len(TOKENS))
    with Graph() as graph:
        declare(graph, placed, [len(every)], [24], [cache_of(states[0])], asked=1)
        found = matrix(runtime.compute(graph, given([every], [24]))["logits"])
    assert found.shape == (1, GRANITE.vocab_size)
    np.testing.assert_allclose(found, expected["untied"][-1:], atol=CLOSE)


def test_a_cache_needs_a_mask(placed: dict[str, Tensor], states: list[State]) -> None:
    with Graph() as graph, pytest.raises(ShapeError, match="without a mask"):
        x = Stream(
            graph.input("rows", [GRANITE.d_model, 2]),
            graph.input("positions", [2], I32, below=CAPACITY),
            [2],
        )
        granite_layer(placed, LLAMA_NAMES, 0, GRANITE, x, x, None, [cache_of(states[0])[0]])


def test_a_position_beyond_the_cache_is_refused(
    runtime: Runtime, placed: dict[str, Tensor], states: list[State], expected: dict[str, Logits]
) -> None:
    """ggml would end the process; afterwards all goes on."""
    with Decoder(runtime, placed, states[0]) as decoder:
        with pytest.raises(InputError, match="positions: 32 to 32 given, expected 0 to 31"):
            decoder.step(np.array([0]), shift=CAPACITY)
        np.testing.assert_allclose(decoder.run(), expected["untied"], atol=CLOSE)
