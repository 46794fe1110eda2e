"""Memory that lasts from one graph to the next, and graphs that are kept."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from granite_gguf import InputError, OutOfMemoryError, memory
from granite_gguf.ggml import F16, F32, I32, GGMLType, Graph, Runtime, ShapeError, State, mul_mat
from tests.machine import scarce
from tests.signals import uniform


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return (2 * uniform(int(np.prod(shape)), seed) - 1).astype(np.float32).reshape(shape)


@pytest.mark.parametrize("kind", [F32, F16], ids=["F32", "F16"])
def test_rows_stay_from_one_graph_to_the_next(runtime: Runtime, kind: GGMLType) -> None:
    expected = np.zeros((6, 8), np.float32)
    with State(runtime, 1) as state:
        kept = state.add("kept", [8, 6], kind)
        state.place("A test", "Do without")
        assert not state.read("kept").any()
        for seed, at in enumerate(([4, 1], [1], [0, 5, 2])):
            rows = noise(len(at), 8, seed=seed)
            expected[at] = rows.astype(state.read("kept").dtype)
            with Graph() as graph:
                written = kept.with_rows(
                    graph.input("rows", [8, len(at)]), graph.input("at", [len(at)], I32, below=6)
                )
                x = graph.input("x", [8, 3])
                graph.output("product", mul_mat(written, x))  # reads behind the writing
                inputs = {"rows": rows, "at": np.array(at, np.int32), "x": noise(3, 8, seed=9)}
                product = runtime.compute(graph, inputs)["product"][0, 0]
            np.testing.assert_array_equal(state.read("kept"), expected)
            np.testing.assert_allclose(product, inputs["x"] @ expected.T, atol=2e-3)
        state.clear()
        assert not state.read("kept").any()


def test_what_ggml_would_abort_on_is_refused(runtime: Runtime) -> None:
    with State(runtime, 2) as state, State(runtime, 1) as elsewhere, Graph() as graph:
        kept = state.add("kept", [8, 6], F16)
        whole = state.add("whole", [8, 6], I32)
        nowhere = elsewhere.add("nowhere", [8, 6], F16)
        with pytest.raises(ShapeError, match="no memory"):
            state.read("kept")
        state.place("A test", "Do without")
        rows, at = graph.input("rows", [8, 2]), graph.input("at", [2], I32, below=6)
        kept.with_rows(rows, at)
        three, far = graph.input("three", [3], I32, below=6), graph.input("far", [2], I32, below=7)
        unbounded = graph.input("unbounded", [2], I32)
        for to, what, where in (
            (nowhere, rows, at),  # a graph would lend it memory that is gone afterwards
            (whole, rows, at),
            (kept, graph.input("wide", [9, 2]), at),
            (kept, graph.input("halves", [8, 2], F16), at),
            (kept, rows, three),
            (kept, rows, far),
            (kept, rows, unbounded),
            (kept, rows, graph.input("floats", [2])),
            (rows, rows, at),
        ):
            with pytest.raises(ShapeError, match="with_rows"):
                to.with_rows(what, where)


@pytest.mark.parametrize("row", [-1, 6])
def test_rows_beyond_the_end_are_refused(runtime: Runtime, row: int) -> None:
    with State(runtime, 1) as state, Graph() as graph:
        kept = state.add("kept", [8, 6], F32)
        state.place("A test", "Do without")
        written = kept.with_rows(graph.input("rows", [8, 1]), graph.input("at", [1], I32, below=6))
        graph.output("all", written)
        inputs = {"rows": noise(1, 8), "at": np.array([row], np.int32)}
        with pytest.raises(InputError, match=f"at: {row} to {row} given, expected 0 to 5"):
            runtime.compute(graph, inputs)


def test_a_state_that_does_not_fit_is_refused(
    runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with State(runtime, 1) as state:
        state.add("kept", [1024, 4096], F16)
        with monkeypatch.context() as patch:
            patch.setattr(memory, "ROOT", scarce(tmp_path))
            with pytest.raises(OutOfMemoryError, match=r"A cache needs .* Speak less"):
                state.place("A cache", "Speak less")
        state.place("A cache", "Speak less")


def test_a_kept_graph_runs_with_new_inputs(runtime: Runtime) -> None:
    """Also after other graphs of the same runtime, and beside another kept one."""
    weight = noise(16, 8)

    def declare(graph: Graph, rows: int) -> None:
        product = mul_mat(graph.input("w", [8, 16]), graph.input("x", [8, rows]))
        graph.output("y", product.silu())

    def expected(x: np.ndarray) -> np.ndarray:
        product = x @ weight.T
        return product / (1 + np.exp(-product))

    with Graph(nodes=8) as one, Graph(nodes=8) as two, Graph() as other:
        declare(one, 3)
        declare(two, 5)
        declare(other, 4)
        with runtime.keep(one) as first, runtime.keep(two) as second:
            for seed in range(4):
                for run, rows in ((first.run, 3), (second.run, 5), (None, 4)):
                    inputs = {"w": weight, "x": noise(rows, 8, seed=seed)}
                    out = run(inputs) if run else runtime.compute(other, inputs)
                    np.testing.assert_allclose(out["y"][0, 0], expected(inputs["x"]), atol=1e-5)
            with pytest.raises(InputError, match=r"inputs \['x'\] given"):
                first.run({"x": weight})


def test_a_kept_graph_that_does_not_fit_is_refused(
    runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Graph(purpose="A step", remedy="Walk") as graph:
        graph.output("y", graph.input("x", [1024, 1024]).silu())
        monkeypatch.setattr(memory, "ROOT", scarce(tmp_path))
        with pytest.raises(OutOfMemoryError, match=r"A step needs .* Walk"):
            runtime.keep(graph)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of forks beside threads, from 3.12 on
def test_a_kept_graph_and_a_state_go_on_in_a_forked_child(runtime: Runtime) -> None:
    with State(runtime, 1) as state, Graph(nodes=8) as graph:
        kept = state.add("kept", [8, 6], F32)
        state.place("A test", "Do without")
        at = graph.input("at", [1], I32, below=6)
        graph.output("all", kept.with_rows(graph.input("rows", [8, 1]), at))
        with runtime.keep(graph) as keeping:

            def write(row: int) -> bool:
                inputs = {"rows": noise(1, 8, seed=row), "at": np.array([row], np.int32)}
                out = keeping.run(inputs)["all"][0, 0]
                return all(np.array_equal(out[n], noise(8, seed=n)) for n in range(row + 1))

            assert write(0)
            child = os.fork()
            if not child:
                code = 1
                try:
                    code = 0 if write(1) and write(2) else 2
                finally:
                    os._exit(code)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            assert not state.read("kept")[1:].any()  # the child wrote into its own memory
            assert write(1)


def test_a_graph_is_what_it_was_after_it_was_planned() -> None:
    """As a scheduler of several devices would change it: by what an operation reads."""
    with Graph(nodes=16) as graph:
        x = graph.input("x", [4, 2])
        doubled = graph.output("doubled", x * 2.0)
        reads = doubled.handle.contents.src
        with graph.unchanged():
            reads[0] = doubled.handle
            assert reads[0].contents.name == b"doubled"
        assert reads[0].contents.name == b"x"
