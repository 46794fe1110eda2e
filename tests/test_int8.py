"""Products in numbers of 8 bits, against the same rounding of the activations in numpy."""

from __future__ import annotations

import gguf
import numpy as np
import numpy.typing as npt
import pytest

from granite_gguf.ggml import (
    Activation,
    GGMLType,
    Graph,
    Products,
    Runtime,
    WeightBuffer,
    available_kernels,
)
from granite_gguf.ggml.quants import encode_rows, prepare_encoding
from granite_gguf.ggml.types import BLOCK_SIZES

ROWS = ("avx512-vnni", "avx-vnni", "avx2-int8")
FLOATS = ("F32", "F16", "BF16")
# Where a block has its factors (F16), and the type.
FACTORS = {
    "Q8_0": (0,), "Q6_K": (208,), "Q5_K": (0, 2), "Q4_K": (0, 2), "Q3_K": (108,), "Q2_K": (80, 82),
    "Q5_1": (0, 2), "Q5_0": (0,), "Q4_1": (0, 2), "Q4_0": (0,), "IQ4_NL": (0,), "IQ4_XS": (0,),
}  # fmt: skip
Array = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

kernels = pytest.mark.parametrize(
    "kernel",
    [
        pytest.param(
            name,
            marks=pytest.mark.skipif(
                name not in available_kernels(), reason=f"no {name} on this processor"
            ),
        )
        for name in ROWS
    ],
)

THREADS = 2


def multiply(
    runtime: Runtime,
    kernel: str,
    kind: str,
    stored: Bytes,
    x: Array,
    bias: Array | None = None,
    activation: Activation = Activation.NONE,
) -> Array:
    """``activation(x w^T + bias)`` by one row of the table, floats rounded to 8 bits as well."""
    rows, width = len(stored), x.shape[-1]
    buffer = WeightBuffer(runtime, 2)
    weight = buffer.add("w", [width, rows], GGMLType[kind])
    added = buffer.add("b", [rows], GGMLType.F32)
    products = Products(runtime.threads, kernel, exact=kind not in FLOATS)
    buffer.allocate()
    buffer.fill("w", stored)
    buffer.fill("b", np.zeros(rows, np.float32) if bias is None else bias)
    with Graph() as graph:
        given = graph.input("x", list(reversed(x.shape)))
        added_or_none = None if bias is None else added
        graph.output("y", products.multiply(weight, given, added_or_none, activation))
        y: Array = runtime.compute(graph, {"x": x})["y"]
    buffer.close()
    return y.reshape(*x.shape[:-1], rows)


def rounded(x: Array) -> npt.NDArray[np.float64]:
    """What numbers of 8 bits with a scale for 32 of them are: the exact value, in float64."""
    width = x.shape[-1]
    padded = np.zeros((*x.shape[:-1], -(-width // 32) * 32), np.float32)
    padded[..., :width] = x
    groups = padded.reshape(*x.shape[:-1], -1, 32)
    scales = np.abs(groups).max(-1, keepdims=True) / np.float32(127)
    inverses = np.divide(1, scales, out=np.zeros_like(scales), where=scales > 0)
    numbers = np.rint(groups * inverses)
    assert np.abs(numbers).max() <= 127
    exact = numbers.astype(np.int64) * scales.astype(np.float64)
    return exact.reshape(padded.shape)[..., :width]


def decoded(kind: str, stored: Bytes) -> npt.NDArray[np.float64]:
    if kind == "F32":
        return rounded(stored.view(np.float32))
    weight = gguf.quants.dequantize(stored, gguf.GGMLQuantizationType[kind])
    return rounded(weight) if kind in FLOATS else weight.astype(np.float64)


def stored_weight(kind: str, rows: int, width: int) -> Bytes:
    weight = np.random.default_rng(rows).standard_normal((rows, width), dtype=np.float32)
    prepare_encoding(GGMLType[kind])
    return np.ascontiguousarray(encode_rows(GGMLType[kind], weight)).view(np.uint8)


def filled(kind: str, rows: int, width: int, byte: int, factor: float) -> Bytes:
    """Blocks of nothing but one byte, and factors."""
    block = BLOCK_SIZES[GGMLType[kind]]
    stored = np.full((rows, width // block.elements, block.bytes), byte, np.uint8)
    half = np.float16(factor).view(np.uint16)
    for place in FACTORS[kind]:
        stored[:, :, place] = half & 255
        stored[:, :, place + 1] = half >> 8
    return stored.reshape(rows, -1)


def check(y: Array, weight: npt.NDArray[np.float64], x: Array) -> None:
    """Sums of a group are exact; sums of them are of float32."""
    exact = rounded(x)
    most = np.abs(exact) @ np.abs(weight).T
    # An offset is multiplied apart and cancels with the rest: at most 16 times what is left.
    np.testing.assert_array_less(np.abs(y - exact @ weight.T), 2e-6 * most.max() + 1e-30)


@kernels
@pytest.mark.parametrize("kind", [*FACTORS, *FLOATS])
@pytest.mark.parametrize(
    ("rows", "width", "columns"), [(96, 512, 40), (7, 256, 1), (45, 768, 17), (33, 256, 6)]
)
def test_each_type(
    runtime: Runtime, kernel: str, kind: str, rows: int, width: int, columns: int
) -> None:
    stored = stored_weight(kind, rows, width)
    x = np.random.default_rng(columns).standard_normal((columns, width), dtype=np.float32)
    check(multiply(runtime, kernel, kind, stored, x), decoded(kind, stored), x)


@kernels
@pytest.mark.parametrize("kind", [*FACTORS, *FLOATS])
def test_any_number_of_columns_has_the_bits_of_many(
    runtime: Runtime, kernel: str, kind: str
) -> None:
    """So that a token checked beside others is the one that it would be alone."""
    stored = stored_weight(kind, 45, 768)
    x = np.random.default_rng(0).standard_normal((50, 768), dtype=np.float32)
    many = multiply(runtime, kernel, kind, stored, x)
    check(many, decoded(kind, stored), x)
    for columns in range(1, 41):
        few = multiply(runtime, kernel, kind, stored, x[:columns])
        np.testing.assert_array_equal(few, many[:columns])


@kernels
@pytest.mark.parametrize("kind", ["Q8_0", "Q5_1", "Q4_0", "F32", "F16", "BF16"])
@pytest.mark.parametrize("width", [32, 96, 352])
@pytest.mark.parametrize("columns", [9, 30])
def test_widths_that_are_no_whole_span(
    runtime: Runtime, kernel: str, kind: str, width: int, columns: int
) -> None:
    stored = stored_weight(kind, 40, width)
    x = np.random.default_rng(width).standard_normal((columns, width), dtype=np.float32)
    check(multiply(runtime, kernel, kind, stored, x), decoded(kind, stored), x)


@kernels
@pytest.mark.parametrize("kind", FLOATS)
@pytest.mark.parametrize("width", [1, 5, 37, 261, 300])
def test_floats_of_any_width(runtime: Runtime, kernel: str, kind: str, width: int) -> None:
    stored = stored_weight(kind, 19, width)
    x = np.random.default_rng(width).standard_normal((8, width), dtype=np.float32)
    check(multiply(runtime, kernel, kind, stored, x), decoded(kind, stored), x)


@kernels
@pytest.mark.parametrize("kind", FACTORS)
@pytest.mark.parametrize("byte", [0x00, 0xFF, 0x80, 0x7F, 0x0F, 0xF0])
@pytest.mark.parametrize("x_number", [3.0, -3.0])
def test_nothing_saturates(
    runtime: Runtime, kernel: str, kind: str, byte: int, x_number: float
) -> None:
    """All numbers at their limits, on both sides."""
    stored = filled(kind, 33, 512, byte, 0.5)
    x = np.full((7, 512), x_number, np.float32)
    check(multiply(runtime, kernel, kind, stored, x), decoded(kind, stored), x)


@kernels
@pytest.mark.parametrize("kind", FACTORS)
def test_any_bytes(runtime: Runtime, kernel: str, kind: str) -> None:
    """Every bit of scales and numbers counts, also those that an encoder would not choose."""
    rng = np.random.default_rng(0)
    stored = filled(kind, 40, 512, 0, 1.0)
    block = BLOCK_SIZES[GGMLType[kind]].bytes
    noise = rng.integers(0, 256, stored.shape, np.uint8)
    places = [place + n for place in FACTORS[kind] for n in (0, 1)]
    scales = np.isin(np.arange(stored.shape[1]) % block, places)
    stored = np.where(scales, stored, noise)
    x = rng.standard_normal((7, 512), dtype=np.float32)
    check(multiply(runtime, kernel, kind, stored, x), decoded(kind, stored), x)


@kernels
@pytest.mark.parametrize("kind", FACTORS)
@pytest.mark.parametrize("factor", [2.0**-24, 2.0**-15, 0.0, -0.75, 65504.0])
def test_factors_below_the_normal_ones_and_others(
    runtime: Runtime, kernel: str, kind: str, factor: float
) -> None:
    stored = filled(kind, 33, 256, 0x5A, factor)
    x = np.random.default_rng(0).standard_normal((5, 256), dtype=np.float32)
    check(multiply(runtime, kernel, kind, stored, x), decoded(kind, stored), x)


@kernels
@pytest.mark.parametrize("kind", ["Q8_0", "Q4_K", "Q2_K", "F32"])
def test_activations_of_all_sizes(runtime: Runtime, kernel: str, kind: str) -> None:
    """Groups of zeros, of a single number, tiny or huge: each has a scale of its own."""
    stored = stored_weight(kind, 40, 256)
    x = np.random.default_rng(0).standard_normal((9, 256), dtype=np.float32)
    x[0] = 0
    x[1, 32:64] = 0
    x[2, :] = 0
    x[2, 100] = 7
    x[3] *= 1e-30
    x[4] *= 1e30
    y = multiply(runtime, kernel, kind, stored, x)
    for found, row in zip(y, x, strict=True):
        check(found[None], decoded(kind, stored), row[None])
    assert not y[0].any()


@kernels
def test_numbers_below_the_normal_ones_count_as_zeros(runtime: Runtime, kernel: str) -> None:
    stored = stored_weight("Q8_0", 40, 64)
    x = np.full((3, 64), 1e-40, np.float32)
    assert np.abs(multiply(runtime, kernel, "Q8_0", stored, x)).max() < 1e-35


@kernels
@pytest.mark.parametrize("kind", ["Q8_0", "Q4_K", "Q6_K", "Q2_K", "F16"])
@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("columns", [5, 40])
def test_numbers_that_are_not_finite_stay_so(
    runtime: Runtime, kernel: str, kind: str, number: float, columns: int
) -> None:
    stored = stored_weight(kind, 40, 256)
    x = np.random.default_rng(0).standard_normal((columns, 256), dtype=np.float32)
    x[3, 5] = number
    y = multiply(runtime, kernel, kind, stored, x)
    assert not np.isfinite(y[3]).any()
    assert np.isfinite(np.delete(y, 3, 0)).all()


@kernels
@pytest.mark.parametrize("number", [np.nan, np.inf])
@pytest.mark.parametrize("kind", ["Q8_0", "Q4_K", "F32"])
def test_weights_that_are_not_finite_stay_so(
    runtime: Runtime, kernel: str, kind: str, number: float
) -> None:
    if kind == "F32":
        weight = np.random.default_rng(0).standard_normal((40, 256), dtype=np.float32)
        weight[7, 9] = number
        stored = weight.view(np.uint8)
    else:
        stored = stored_weight(kind, 40, 256).copy()
        stored[7, :2] = np.frombuffer(np.float16(number).tobytes(), np.uint8)
    x = np.random.default_rng(0).standard_normal((20, 256), dtype=np.float32)
    y = multiply(runtime, kernel, kind, stored, x)
    assert not np.isfinite(y[:, 7]).any()
    assert np.isfinite(np.delete(y, 7, 1)).all()


@kernels
@pytest.mark.parametrize("kind", ["Q5_K", "Q8_0"])
@pytest.mark.parametrize("activation", [Activation.NONE, Activation.SILU, Activation.GATE], ids=str)
def test_bias_activation_and_batch(
    runtime: Runtime, kernel: str, kind: str, activation: Activation
) -> None:
    """Half of the rows is no whole vector."""
    rng = np.random.default_rng(0)
    stored = stored_weight(kind, 74, 256)
    bias = 30 * rng.standard_normal(74, dtype=np.float32)
    x = rng.standard_normal((3, 7, 256), dtype=np.float32)
    expected = rounded(x) @ decoded(kind, stored).T + bias
    sigmoid = 1 / (1 + np.exp(-expected))
    if activation is Activation.SILU:
        expected = expected * sigmoid
    elif activation is Activation.GATE:
        expected[..., 37:] = sigmoid[..., 37:]
    y = multiply(runtime, kernel, kind, stored, x, bias, activation)
    np.testing.assert_allclose(y, expected, rtol=3e-6, atol=1e-4)


@kernels
@pytest.mark.parametrize("columns", [3, 20])
def test_one_x_of_weights_that_want_it_packed_in_other_ways(
    runtime: Runtime, kernel: str, columns: int
) -> None:
    kinds = ("Q8_0", "Q4_K", "IQ4_NL", "Q6_K")
    stored = {kind: stored_weight(kind, 40, 512) for kind in kinds}
    x = np.random.default_rng(0).standard_normal((columns, 512), dtype=np.float32)
    buffer = WeightBuffer(runtime, len(kinds))
    weights = {kind: buffer.add(kind, [512, 40], GGMLType[kind]) for kind in kinds}
    products = Products(runtime.threads, kernel, exact=True)
    buffer.allocate()
    for kind in kinds:
        buffer.fill(kind, stored[kind])
    with Graph() as graph:
        given = graph.input("x", [512, columns])
        for kind in kinds:
            graph.output(kind, products.multiply(weights[kind], given))
        found = runtime.compute(graph, {"x": x})
    buffer.close()
    for kind in kinds:
        check(found[kind].reshape(columns, 40), decoded(kind, stored[kind]), x)


@kernels
def test_any_number_of_threads_gives_the_same_bits(kernel: str) -> None:
    stored = stored_weight("Q4_K", 200, 1024)
    x = np.random.default_rng(0).standard_normal((700, 1024), dtype=np.float32)
    found = []
    for threads in (1, 2, 3, 9):
        with Runtime("cpu", threads) as runtime:
            found.append(multiply(runtime, kernel, "Q4_K", stored, x))
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])


@pytest.mark.parametrize("kind", [*FACTORS, *FLOATS])
def test_all_rows_give_the_same_numbers(runtime: Runtime, kind: str) -> None:
    """Whole numbers are the same; what is left is the order of float32 sums, which is the same."""
    names = [name for name in ROWS if name in available_kernels()]
    stored = stored_weight(kind, 40, 512)
    x = np.random.default_rng(0).standard_normal((13, 512), dtype=np.float32)
    found = [multiply(runtime, name, kind, stored, x) for name in names]
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])
