"""Products by our kernels with bfloat16 and float32, against decoded weights and numbers rounded by
hand.

Each runs where the processor has it. Those of 8 bits are in test_int8.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt
import pytest

import granite_gguf
from granite_gguf.ggml import (
    F32,
    Activation,
    GGMLType,
    Graph,
    Products,
    Runtime,
    ShapeError,
    WeightBuffer,
    added_product,
    available_kernels,
    gated_linear,
    linear,
    mul_mat,
)
from granite_gguf.ggml import kernels as table
from granite_gguf.ggml.kernels import kernels_compiled
from granite_gguf.ggml.quants import encode_rows, prepare_encoding
from granite_gguf.graph import layers
from granite_gguf.placing import kernel_choice
from granite_gguf.placing.kernel_choice import Kernel, Kernels
from tests.signals import synthetic_audio

NATIVE = Path(__file__).parent.parent / "granite_gguf" / "ggml" / "native"
FLOATS = ("F32", "F16", "BF16")
QUANTIZED = (
    *("Q8_0", "Q6_K", "Q5_K", "Q4_K", "Q3_K", "Q2_K"),
    *("Q5_0", "Q5_1", "Q4_0", "Q4_1", "IQ4_NL", "IQ4_XS"),
)
Array = npt.NDArray[np.float32]

BFLOAT16 = ("amx-bf16", "avx512-bf16")
FLOAT32 = ("avx512-fma", "avx2-fma", "generic")
WHOLE_NUMBERS = ("avx512-vnni", "avx-vnni", "avx2-int8")


def each(*names: str | None) -> pytest.MarkDecorator:
    """A run with each of these kernels, left out where the processor has not got it; None: ggml."""
    missing = {name for name in names if name not in (None, *available_kernels())}
    skip = {name: pytest.mark.skipif(name in missing, reason=f"no {name} here") for name in names}
    return pytest.mark.parametrize(
        "kernel", [pytest.param(name, marks=skip[name]) for name in names]
    )


THREADS = 2


def multiply(
    runtime: Runtime,
    kernel: str,
    kind: str,
    stored: npt.NDArray[np.uint8],
    x: Array,
    *,
    exact: bool = True,
    beyond: int = 0,
) -> Array:
    """``x`` times the transposed weight of these bytes, which begin so many beyond a line of the
    cache and have NaN around them, by one kernel.
    """
    rows, width = len(stored), x.shape[-1]
    buffer = WeightBuffer(runtime, 1)
    weight = buffer.add("w", [width, rows], GGMLType[kind])
    weight.multiplier = Products(runtime.threads, kernel, exact=exact)
    memory = np.full(stored.nbytes + 256, 0xFF, np.uint8)
    memory, begin = memory[-memory.ctypes.data % 64 :], 64 + beyond
    memory[begin : begin + stored.nbytes] = stored.reshape(-1).view(np.uint8)
    buffer.map_host(memory, {"w": begin})
    with Graph() as graph:
        given = graph.input("x", list(reversed(x.shape)))
        graph.output("y", mul_mat(weight, given))
        y: Array = runtime.compute(graph, {"x": x})["y"]
    buffer.close()
    return y.reshape(*x.shape[:-1], rows)


def stored_and_decoded(kind: str, rows: int, width: int) -> tuple[npt.NDArray[np.uint8], Array]:
    weight = np.random.default_rng(rows).standard_normal((rows, width), dtype=np.float32)
    prepare_encoding(GGMLType[kind])
    stored = encode_rows(GGMLType[kind], weight)
    if kind == "F32":
        return stored, weight
    return stored, gguf.quants.dequantize(stored, gguf.GGMLQuantizationType[kind])


def nearest_bfloat16(x: Array) -> npt.NDArray[np.float64]:
    """Rounded to nearest, ties to even."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32).astype(np.uint64)
    bits = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16 << 16
    return bits.astype(np.uint32).view(np.float32).astype(np.float64)


@each(*BFLOAT16)
@pytest.mark.parametrize("kind", [*QUANTIZED, "BF16"])
@pytest.mark.parametrize(("rows", "columns"), [(96, 40), (7, 1), (45, 17), (33, 16)])
def test_the_product_is_that_of_numbers_rounded_to_bfloat16(
    runtime: Runtime, kernel: str, kind: str, rows: int, columns: int
) -> None:
    stored, weight = stored_and_decoded(kind, rows, 512)
    x = np.random.default_rng(columns).standard_normal((columns, 512), dtype=np.float32)
    if Products(2, kernel, exact=True).kernel(GGMLType[kind], columns) != kernel:
        pytest.skip(f"{kernel} leaves {columns} columns of {kind} to others")
    expected = nearest_bfloat16(x) @ nearest_bfloat16(weight).T
    y = multiply(runtime, kernel, kind, stored, x)
    assert np.abs(y - expected).max() < 2e-6 * np.abs(expected).max()


@each(*BFLOAT16, *FLOAT32)
@pytest.mark.parametrize("kind", FLOATS)
def test_any_number_of_columns_of_whole_numbers(runtime: Runtime, kernel: str, kind: str) -> None:
    """Sums that float32 has exactly, of odd shapes; no more than a row or so many that many fit."""
    rng = np.random.default_rng(0)
    for columns in range(1, 41):
        rows, width = (1, 5) if columns == 3 else (45, 261)
        weight = rng.integers(-9, 10, (rows, width)).astype(np.float32)
        x = rng.integers(-9, 10, (columns, width)).astype(np.float32)
        stored = encode_rows(GGMLType[kind], weight)
        y = multiply(runtime, kernel, kind, stored, x)
        np.testing.assert_array_equal(y, x @ weight.T)


@each("avx512-bf16", *FLOAT32)
@pytest.mark.parametrize("kind", FLOATS)
def test_few_columns_have_the_bits_of_many(runtime: Runtime, kernel: str, kind: str) -> None:
    """So that a token checked beside others is the one that it would be alone."""
    stored, _ = stored_and_decoded(kind, 45, 300)
    x = np.random.default_rng(0).standard_normal((50, 300), dtype=np.float32)
    many = multiply(runtime, kernel, kind, stored, x)
    for columns in (1, 2, 3, 5, 8, 9, 12, 13):
        few = multiply(runtime, kernel, kind, stored, x[:columns])
        np.testing.assert_array_equal(few, many[:columns])


@each("avx512-bf16", *FLOAT32)
@pytest.mark.parametrize("kind", FLOATS)
@pytest.mark.parametrize("beyond", [32, 8, 2])
def test_rows_may_begin_within_a_line(
    runtime: Runtime, kernel: str, kind: str, beyond: int
) -> None:
    """As in a file, whose tensors begin at multiples of 32 bytes; what is beside does not count."""
    stored, _ = stored_and_decoded(kind, 45, 320)
    x = np.random.default_rng(0).standard_normal((12, 320), dtype=np.float32)
    for columns in (1, 2, 4, 7, 12):
        y = multiply(runtime, kernel, kind, stored, x[:columns], beyond=beyond)
        np.testing.assert_array_equal(y, multiply(runtime, kernel, kind, stored, x[:columns]))


@each(*BFLOAT16, *FLOAT32)
@pytest.mark.parametrize("kind", FLOATS)
@pytest.mark.parametrize("width", [320, 301])
@pytest.mark.parametrize("beyond", [0, 32, 8])
def test_many_columns_take_rows_where_they_lie(
    runtime: Runtime, kernel: str, kind: str, width: int, beyond: int
) -> None:
    """Panels that are whole and one that is not, none of which takes in what lies behind a row."""
    rng = np.random.default_rng(0)
    x = rng.integers(-9, 10, (50, width)).astype(np.float32)
    for rows in (96, 77):
        weight = rng.integers(-9, 10, (rows, width)).astype(np.float32)
        stored = encode_rows(GGMLType[kind], weight)
        for columns in (14, 16, 30, 50):
            y = multiply(runtime, kernel, kind, stored, x[:columns], beyond=beyond)
            np.testing.assert_array_equal(y, x[:columns] @ weight.T)


@pytest.mark.skipif(sys.platform == "win32", reason="mprotect")
@each(*BFLOAT16, *FLOAT32, *WHOLE_NUMBERS)
def test_nothing_beside_a_weight_need_be_memory(kernel: str) -> None:
    """As behind the last tensor of a file; in a process of its own, as a wrong read ends it."""
    command = [sys.executable, "-m", "tests.support.guarded_products", kernel]
    done = subprocess.run(
        command, cwd=Path(__file__).parent.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, (done.stdout.splitlines()[-1:], done.stderr[-500:])


@each(*BFLOAT16, *FLOAT32)
@pytest.mark.parametrize("kind", ["F32", "F16"])
@pytest.mark.parametrize(
    ("rows", "width", "columns"), [(96, 512, 40), (7, 256, 1), (45, 160, 17), (9, 37, 3), (1, 5, 1)]
)
def test_longer_floats_keep_sixteen_bits(
    runtime: Runtime, kernel: str, kind: str, rows: int, width: int, columns: int
) -> None:
    stored, weight = stored_and_decoded(kind, rows, width)
    x = np.random.default_rng(columns).standard_normal((columns, width), dtype=np.float32)
    expected = x.astype(np.float64) @ weight.T.astype(np.float64)
    most = (np.abs(x) @ np.abs(weight).T).max()
    # Two parts of eight bits each; a product of two second parts, 2**-18 of it, is left out.
    assert np.abs(multiply(runtime, kernel, kind, stored, x) - expected).max() < 2**-15 * most
    fast = Products(2, kernel, exact=False).kernel(GGMLType[kind], columns)
    if kernel in BFLOAT16 and fast == kernel:
        rounded = nearest_bfloat16(x) @ nearest_bfloat16(weight).T
        y = multiply(runtime, kernel, kind, stored, x, exact=False)
        assert np.abs(y - rounded).max() < 1e-6 * most


@each(*BFLOAT16, *FLOAT32)
def test_weights_that_are_bfloat16_lose_nothing_in_float32(runtime: Runtime, kernel: str) -> None:
    weight = nearest_bfloat16(stored_and_decoded("F32", 64, 256)[1]).astype(np.float32)
    x = nearest_bfloat16(np.random.default_rng(0).standard_normal((20, 256))).astype(np.float32)
    y = multiply(runtime, kernel, "F32", weight.view(np.uint8), x)
    expected = x.astype(np.float64) @ weight.T.astype(np.float64)
    assert np.abs(y - expected).max() < 1e-6 * np.abs(expected).max()


@each(*BFLOAT16, *FLOAT32)
@pytest.mark.parametrize("kind", ["Q4_K", "F16"])
def test_any_number_of_threads_gives_the_same_bits(kernel: str, kind: str) -> None:
    """More rows and columns than a thread takes at once, and more threads than there are panels."""
    stored, _ = stored_and_decoded(kind, 200, 1024)
    x = np.random.default_rng(0).standard_normal((600, 1024), dtype=np.float32)
    found = []
    for threads in (1, 2, 3, 9):
        runtime = Runtime("cpu", threads)
        found.append(multiply(runtime, kernel, kind, stored, x))
        runtime.close()
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])


@each(*BFLOAT16, *FLOAT32)
def test_batches_and_rows_apart(runtime: Runtime, kernel: str) -> None:
    """Activations of three dimensions, and rows that are part of longer ones."""
    stored, weight = stored_and_decoded("BF16", 32, 64)
    x = nearest_bfloat16(np.random.default_rng(0).standard_normal((3, 5, 64))).astype(np.float32)
    expected = nearest_bfloat16(x) @ nearest_bfloat16(weight).T
    np.testing.assert_allclose(multiply(runtime, kernel, "BF16", stored, x), expected, atol=1e-5)
    buffer = WeightBuffer(runtime, 1)
    tensor = buffer.add("w", [64, 32], GGMLType.BF16)
    tensor.multiplier = Products(2, kernel, exact=True)
    buffer.allocate()
    buffer.fill("w", stored)
    with Graph() as graph:
        wide = graph.input("x", [192, 5])
        with pytest.raises(ShapeError, match="mul_mat"):
            mul_mat(tensor, wide)
        with pytest.raises(ShapeError, match="multiply"):
            linear(tensor, wide.columns(64, 64), wide)
    with Graph() as graph:
        wide = graph.input("x", [192, 5])
        graph.output("y", mul_mat(tensor, wide.columns(64, 64)))
        y = runtime.compute(graph, {"x": x.transpose(1, 0, 2).reshape(5, 192)})["y"]
    buffer.close()
    np.testing.assert_allclose(y.reshape(5, 32), expected[1], atol=1e-5)


@each(*BFLOAT16, *FLOAT32)
def test_single_rows_of_many_matrices(runtime: Runtime, kernel: str) -> None:
    """As the heads of one query are: the stride of rows, of which each has one, means nothing."""
    rng = np.random.default_rng(0)
    heads = rng.integers(-8, 8, (1, 6, 32)).astype(np.float32)
    keys = rng.integers(-8, 8, (9, 32)).astype(np.float32)
    with Graph() as graph:
        weight = graph.input("keys", [32, 9])
        weight.multiplier = Products(runtime.threads, kernel, exact=True)
        queries = graph.input("heads", [32, 6, 1]).permute(0, 2, 1, 3)  # [32, 1, 6]
        graph.output("y", mul_mat(weight, queries))
        found = runtime.compute(graph, {"heads": heads, "keys": keys})["y"]
    np.testing.assert_array_equal(found[0, :, 0], heads[0] @ keys.T)


@each(*BFLOAT16, *FLOAT32)
@pytest.mark.parametrize("scores", [1, 1 << 23], ids=["some queries at a time", "all at once"])
def test_attention_is_that_of_ggml(
    runtime: Runtime, kernel: str, monkeypatch: pytest.MonkeyPatch, scores: int
) -> None:
    monkeypatch.setattr(layers, "_SCORES", scores)
    monkeypatch.setattr(layers, "_FEWEST_QUERIES", 16)
    rng = np.random.default_rng(0)
    inputs = {
        name: rng.standard_normal((n, heads, 64), dtype=np.float32)
        for name, n, heads in (("q", 45, 6), ("k", 70, 2), ("v", 70, 2))
    }
    found = []
    for multiplier in (None, Products(2, kernel, exact=True)):
        with Graph() as graph:
            q, k, v = (
                graph.input(name, list(reversed(array.shape))).permute(0, 2, 1, 3)
                for name, array in inputs.items()
            )
            k.multiplier = v.multiplier = multiplier
            graph.output("y", layers.attend(q, k, v, 0.3))
            found.append(runtime.compute(graph, inputs)["y"])
    assert found[0].shape == found[1].shape
    np.testing.assert_allclose(found[1], found[0], atol=3e-4)


@each(None, *BFLOAT16, *FLOAT32)
@pytest.mark.parametrize("kind", [None, Activation.NONE, Activation.SILU, "gate"], ids=str)
@pytest.mark.parametrize("columns", [21, 3])
def test_bias_and_activation(
    runtime: Runtime, kernel: str | None, kind: Activation | str | None, columns: int
) -> None:
    """In one with the product or behind it; half of the rows is no whole vector."""
    rng = np.random.default_rng(0)
    weight = 4 * nearest_bfloat16(rng.standard_normal((74, 64))).astype(np.float32)
    bias = 30 * rng.standard_normal(74).astype(np.float32)
    x = nearest_bfloat16(rng.standard_normal((columns, 64))).astype(np.float32)
    buffer = WeightBuffer(runtime, 2)
    w = buffer.add("w", [64, 74], F32)
    b = buffer.add("b", [74], F32) if kind else None
    w.multiplier = Products(2, kernel, exact=True) if kernel else None
    buffer.allocate()
    buffer.fill("w", weight)
    if b is not None:
        buffer.fill("b", bias)
    expected = x.astype(np.float64) @ weight.T + (bias if kind else 0)
    with np.errstate(over="ignore"):
        sigmoid = 1 / (1 + np.exp(-expected))
    with Graph() as graph:
        given = graph.input("x", [64, columns])
        if kind == "gate":
            graph.output("y", gated_linear(w, given, b))
            expected = expected[:, :37] * sigmoid[:, 37:]
        else:
            activation = kind if isinstance(kind, Activation) else Activation.NONE
            graph.output("y", linear(w, given, b, activation))
            expected = expected * sigmoid if kind is Activation.SILU else expected
        y = runtime.compute(graph, {"x": x})["y"].reshape(expected.shape)
    buffer.close()
    np.testing.assert_allclose(y, expected, rtol=3e-6, atol=3e-5)


@each(*BFLOAT16, *FLOAT32, *WHOLE_NUMBERS)
@pytest.mark.parametrize("kind", ["Q8_0", "BF16"])
@pytest.mark.parametrize("columns", [70, 9])
@pytest.mark.parametrize("exact", [True, False], ids=["exact", "fast"])
def test_what_is_added_to_has_the_bits_of_two_operations(
    runtime: Runtime, kernel: str, kind: str, columns: int, *, exact: bool
) -> None:
    """To rows that lie between others; a third of a number is no sum of powers of two."""
    rng = np.random.default_rng(0)
    stored, _ = stored_and_decoded(kind, 75, 128)
    buffer = WeightBuffer(runtime, 2)
    w, b = buffer.add("w", [128, 75], GGMLType[kind]), buffer.add("b", [75], F32)
    w.multiplier = Products(runtime.threads, kernel, exact=exact)
    buffer.allocate()
    buffer.fill("w", stored)
    buffer.fill("b", rng.standard_normal(75, dtype=np.float32))
    inputs = {
        name: rng.standard_normal((columns, width), dtype=np.float32)
        for name, width in (("x", 128), ("to", 90))
    }
    with Graph() as graph:
        x, to = (graph.input(name, list(reversed(a.shape))) for name, a in inputs.items())
        to = to.columns(11, 75)
        graph.output("y", added_product(w, x, 1 / 3, to, b))
        graph.output("expected", to + linear(w, x, b) * (1 / 3))
        with pytest.raises(ShapeError, match="multiply"):
            added_product(w, x, 1.0, to.rows(0, 1), b)
        found = runtime.compute(graph, inputs)
    buffer.close()
    np.testing.assert_array_equal(found["y"], found["expected"])


@each(*BFLOAT16, *FLOAT32)
@pytest.mark.parametrize(
    ("heads", "sharing", "blocks"), [(3, 1, 2), (4, 2, 1), (6, 6, 3), (2, 1, 1), (2, 2, 1)]
)
@pytest.mark.parametrize("each", [21, 2])
def test_a_product_for_each_head_and_block(
    runtime: Runtime, kernel: str, heads: int, sharing: int, blocks: int, each: int
) -> None:
    """Keys that lie between one another, times queries; several heads may share the keys."""
    rng = np.random.default_rng(0)
    keys = rng.standard_normal((blocks, 37, heads // sharing, 72), dtype=np.float32)
    queries = rng.standard_normal((blocks, heads, each, 72), dtype=np.float32)
    with Graph() as graph:
        k = graph.input("keys", [72, heads // sharing, 37, blocks]).permute(0, 2, 1, 3)
        k.multiplier = Products(2, kernel, exact=True)
        queries_between = graph.input("queries", [72, heads, each, blocks])
        graph.output("y", mul_mat(k, queries_between.permute(0, 2, 1, 3)))
        between = queries.transpose(0, 2, 1, 3)
        y = runtime.compute(graph, {"keys": keys, "queries": between})["y"]
    repeated = np.repeat(keys.transpose(0, 2, 3, 1), sharing, axis=1)
    expected = (queries.astype(np.float64) @ repeated).reshape(y.shape)
    most = (np.abs(queries) @ np.abs(repeated)).max()
    assert np.abs(y - expected).max() < 2**-15 * most


@each(*BFLOAT16, *FLOAT32)
def test_one_packing_serves_several_weights_and_the_memory_is_shared(
    runtime: Runtime, kernel: str
) -> None:
    """A chain as long as a model, so that results and packed activations take turns in memory."""
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal((64, 64)).astype(np.float32) / 8 for _ in range(24)]
    buffer = WeightBuffer(runtime, len(weights))
    for n in range(len(weights)):
        tensor = buffer.add(f"w{n}", [64, 64], F32)
        tensor.multiplier = Products(2, kernel, exact=True)
    buffer.allocate()
    for n, weight in enumerate(weights):
        buffer.fill(f"w{n}", weight)
    x = rng.standard_normal((33, 64), dtype=np.float32)
    expected = x.astype(np.float64)
    with Graph() as graph:
        y = graph.input("x", [64, 33])
        for n in range(0, len(weights), 2):
            y = mul_mat(buffer.tensors[f"w{n}"], y) + mul_mat(buffer.tensors[f"w{n + 1}"], y)
            expected = expected @ weights[n].T + expected @ weights[n + 1].T
        graph.output("y", y)
        found = runtime.compute(graph, {"x": x})["y"]
    buffer.close()
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


@each(*BFLOAT16, *FLOAT32)
@pytest.mark.parametrize("number", [np.nan, np.inf])
@pytest.mark.parametrize("columns", [20, 5])
def test_numbers_that_are_not_finite_stay_so(
    runtime: Runtime, kernel: str, number: float, columns: int
) -> None:
    stored, weight = stored_and_decoded("F32", 40, 64)
    x = np.random.default_rng(0).standard_normal((columns, 64), dtype=np.float32)
    x[3, 5] = number
    y = multiply(runtime, kernel, "F32", stored, x)
    assert not np.isfinite(y[3]).any() and np.isfinite(np.delete(y, 3, 0)).all()
    weight[7, 9] = number
    y = multiply(runtime, kernel, "F32", weight.view(np.uint8), np.delete(x, 3, 0))
    assert not np.isfinite(y[:, 7]).any() and np.isfinite(np.delete(y, 7, 1)).all()


@each(*BFLOAT16, *FLOAT32)
def test_products_beside_pytorch(runtime: Runtime, kernel: str) -> None:
    """PyTorch's bfloat16 products use the same matrix unit of the processor in another way."""
    torch = pytest.importorskip("torch")
    stored, _ = stored_and_decoded("Q4_K", 96, 512)
    x = np.random.default_rng(0).standard_normal((64, 512), dtype=np.float32)
    before = multiply(runtime, kernel, "Q4_K", stored, x)
    for _ in range(3):
        square = torch.ones(256, 256, dtype=torch.bfloat16)
        assert (square @ square)[0, 0] == 256
        np.testing.assert_array_equal(multiply(runtime, kernel, "Q4_K", stored, x), before)


def test_the_choice_where_there_are_no_kernels_of_ours(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch, f32_files: dict[str, Path]
) -> None:
    audio = synthetic_audio(32_000, seed=3)
    with granite_gguf.load(f32_files["nle"], device="cpu", threads=1) as model:
        expected = model.transcribe(audio)
    monkeypatch.setattr(kernel_choice, "available_kernels", lambda: [])  # not compiled
    assert Kernels(runtime).choose(F32, 512, 96) == Kernel(F32)
    with granite_gguf.load(f32_files["nle"], device="cpu", threads=1) as model:
        assert model.kernels["encoder"].keys() == {"F32"}
        found = model.transcribe(audio)
    assert (found.text, found.token_ids) == (expected.text, expected.token_ids)


def test_the_choice_is_the_first_of_the_table_that_takes_a_type(runtime: Runtime) -> None:
    names = [name for name in available_kernels() if name != "generic"]
    for kind in (*FLOATS, *QUANTIZED):
        kernel = Kernels(runtime).choose(GGMLType[kind], 512, 96)
        assert kernel.type is GGMLType[kind]
        assert kernel.own in (names or [None])
        if kernel.own:
            assert str(kernel) == f"{kind} by {kernel.own}"
    for name in names:
        first = Products(2, name, exact=True).kernel(GGMLType.Q4_K)
        assert first == name or names.index(str(first)) > names.index(name)
    there = r".*generic" if names else "none"
    with pytest.raises(ValueError, match=f"no kernel 'none of them' here; there are: {there}"):
        Products(2, "none of them", exact=True)


@pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler")
@pytest.mark.parametrize("flags", [[], ["-U__linux__"]], ids=str)
@pytest.mark.parametrize("source", sorted(NATIVE.glob("*.c")), ids=lambda path: path.name)
def test_the_sources_compile_without_a_warning(
    tmp_path: Path, source: Path, flags: list[str]
) -> None:
    command = ["cc", "-O2", "-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-c"]
    done = subprocess.run(
        [*command, "-fPIC", *flags, "-o", tmp_path / "kernel.o", source],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_a_library_of_other_sources_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A structure of another size would be written beyond its end."""

    class Longer(ctypes.Structure):
        _fields_ = (("job", table.Job), ("more", ctypes.c_int64))

    if not kernels_compiled():
        pytest.skip("no kernels were compiled")
    monkeypatch.setattr(table, "Job", Longer)
    with pytest.raises(ImportError, match=r"kernels.*other sources.*install granite-gguf again"):
        table.library.__wrapped__()
