"""Kernels of processors that this machine has not got, emulated: against decoded weights in numpy.

Left out where there is no emulator or no compiler for the processor (on Debian: qemu-user and
gcc-aarch64-linux-gnu).
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt
import pytest

from granite_gguf.ggml import GGMLType
from granite_gguf.ggml.quants import encode_rows, prepare_encoding
from granite_gguf.ggml.types import BLOCK_SIZES
from tests.test_int8 import FACTORS, decoded, filled, rounded, stored_weight
from tests.test_products import nearest_bfloat16

DRIVER = Path(__file__).parent / "support" / "kernel_driver.c"
NATIVE = Path(__file__).parent.parent / "granite_gguf" / "ggml" / "native"
COMPILERS = {"aarch64": "aarch64-linux-gnu-gcc", "x86_64": "x86_64-linux-gnu-gcc"}
FLOATS = ("F32", "F16", "BF16")
SHAPES = [(96, 512, 40), (7, 256, 1), (45, 768, 17), (33, 256, 6)]
Array = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

emulated = pytest.mark.skipif(sys.platform != "linux", reason="qemu-user is Linux's")


@pytest.fixture(scope="module")
def drivers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The driver for each processor that can be compiled for and emulated here."""
    built = {}
    for processor, compiler in COMPILERS.items():
        if shutil.which(compiler) and shutil.which(f"qemu-{processor}"):
            built[processor] = tmp_path_factory.mktemp("drivers") / f"driver-{processor}"
            subprocess.run(
                [compiler, "-O2", "-fno-math-errno", "-static", "-std=c11", f"-I{NATIVE}",
                 "-o", built[processor],
                 DRIVER, *sorted(NATIVE.glob("*.c"))],
                check=True,
            )  # fmt: skip
    return built


def run(
    drivers: dict[str, Path], processor: str, model: str, *words: str, job: bytes = b""
) -> bytes:
    if processor not in drivers:
        pytest.skip(f"no compiler or emulator of {processor}")
    done = subprocess.run(
        [f"qemu-{processor}", "-cpu", model, drivers[processor], *words],
        input=job, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def multiply(
    drivers: dict[str, Path],
    kernel: str,
    kind: str,
    stored: Bytes,
    x: Array,
    bias: Array | None = None,
    *,
    activation: int = 0,
    active_from: int = 0,
    exact: bool = True,
) -> Array:
    """``activation(x w^T + bias)`` by one kernel."""
    (rows, row_bytes), (columns, width) = stored.view(np.uint8).shape, x.shape
    block = BLOCK_SIZES[GGMLType[kind]]
    told = (
        *(int(GGMLType[kind]), width, rows, columns, row_bytes, block.elements, block.bytes),
        *(bias is not None, activation, active_from, exact),
    )
    job = b"".join(
        (np.array(told, np.int64).tobytes(), stored.tobytes(), x.tobytes(),
         b"" if bias is None else bias.tobytes())
    )  # fmt: skip
    if kernel.startswith("neon"):
        found = run(drivers, "aarch64", "max", kernel, job=job)
    else:
        found = run(drivers, "x86_64", "Haswell", kernel, job=job)
    return np.frombuffer(found, np.float32).reshape(columns, rows)


def inputs(columns: int, width: int) -> Array:
    return np.random.default_rng(columns).standard_normal((columns, width), dtype=np.float32)


def close(y: Array, x: npt.NDArray[np.float64], weight: npt.NDArray[np.float64]) -> None:
    most = (np.abs(x) @ np.abs(weight).T).max()
    np.testing.assert_array_less(np.abs(y - x @ weight.T), 2e-6 * most + 1e-30)


@emulated
@pytest.mark.parametrize(
    ("processor", "model", "names"),
    [
        ("x86_64", "Nehalem", "generic"),
        ("x86_64", "Haswell", "avx2-int8 avx2-fma generic"),
        ("aarch64", "cortex-a53", "neon-fma generic"),
        ("aarch64", "cortex-a76", "neon-dotprod neon-fma generic"),
        ("aarch64", "max", "neon-i8mm neon-dotprod neon-bf16 neon-fma generic"),
    ],
)
def test_what_a_processor_has(
    drivers: dict[str, Path], processor: str, model: str, names: str
) -> None:
    assert run(drivers, processor, model).decode().split() == names.split()


@emulated
@pytest.mark.parametrize("kernel", ["neon-i8mm", "neon-dotprod", "avx2-int8"])
@pytest.mark.parametrize("kind", [*FACTORS, *FLOATS])
def test_eight_bits(drivers: dict[str, Path], kernel: str, kind: str) -> None:
    for rows, width, columns in SHAPES:
        stored, x = stored_weight(kind, rows, width), inputs(columns, width)
        y = multiply(drivers, kernel, kind, stored, x, exact=kind not in FLOATS)
        close(y, rounded(x), decoded(kind, stored))


@emulated
@pytest.mark.parametrize("kernel", ["neon-i8mm", "neon-dotprod"])
@pytest.mark.parametrize("kind", FACTORS)
def test_nothing_saturates(drivers: dict[str, Path], kernel: str, kind: str) -> None:
    """All numbers at their limits, on both sides."""
    for byte in (0x00, 0xFF, 0x80, 0x7F):
        stored = filled(kind, 9, 256, byte, 0.5)
        x = np.full((2, 256), 3, np.float32) * np.array([[1], [-1]], np.float32)
        close(multiply(drivers, kernel, kind, stored, x), rounded(x), decoded(kind, stored))


@emulated
@pytest.mark.parametrize("kernel", ["neon-fma", "avx2-fma", "generic"])
@pytest.mark.parametrize("kind", FLOATS)
def test_floats(drivers: dict[str, Path], kernel: str, kind: str) -> None:
    for rows, width, columns in (*SHAPES, (9, 37, 3), (1, 5, 1)):
        stored, x = stored_weight(kind, rows, width), inputs(columns, width)
        weight = gguf.quants.dequantize(stored, gguf.GGMLQuantizationType[kind])
        y = multiply(drivers, kernel, kind, stored, x)
        close(y, x.astype(np.float64), weight.astype(np.float64))


@emulated
@pytest.mark.parametrize("kind", ["BF16", "F32"])
def test_bfloat16(drivers: dict[str, Path], kind: str) -> None:
    for rows, width, columns in (*SHAPES, (9, 37, 3), (1, 5, 1)):
        stored, x = stored_weight(kind, rows, width), inputs(columns, width)
        weight = gguf.quants.dequantize(stored, gguf.GGMLQuantizationType[kind])
        y = multiply(drivers, "neon-bf16", kind, stored, x, exact=kind == "BF16")
        close(y, nearest_bfloat16(x), nearest_bfloat16(weight))


@emulated
@pytest.mark.parametrize("kernel", ["neon-i8mm", "neon-dotprod", "neon-bf16", "neon-fma"])
@pytest.mark.parametrize(("activation", "active_from"), [(0, 0), (1, 37), (2, 0)])
def test_bias_and_activation(
    drivers: dict[str, Path], kernel: str, activation: int, active_from: int
) -> None:
    """Half of the rows is no whole vector. Numbers that bfloat16 and 8 bits have exactly."""
    rng = np.random.default_rng(0)
    weight = rng.integers(-2, 3, (74, 64)).astype(np.float32)
    x = rng.integers(-2, 3, (7, 64)).astype(np.float32)
    x[:, ::32] = 127 / 64  # a scale of 1 / 64
    x = np.rint(x * 64) / 64
    x[:, 1:] = np.clip(x[:, 1:], -127 / 64, 127 / 64)
    kind = "Q8_0" if kernel in ("neon-i8mm", "neon-dotprod") else "BF16"
    prepare_encoding(GGMLType[kind])
    stored = np.ascontiguousarray(encode_rows(GGMLType[kind], weight)).view(np.uint8)
    held = gguf.quants.dequantize(stored, gguf.GGMLQuantizationType[kind]).astype(np.float64)
    bias = 30 * rng.standard_normal(74).astype(np.float32)
    expected = x.astype(np.float64) @ held.T + bias
    with np.errstate(over="ignore"):
        sigmoid = 1 / (1 + np.exp(-expected))
    if activation == 1:
        expected[:, active_from:] = sigmoid[:, active_from:]
    elif activation == 2:
        expected = expected * sigmoid
    y = multiply(
        drivers, kernel, kind, stored, x, bias, activation=activation, active_from=active_from
    )
    np.testing.assert_allclose(y, expected, rtol=3e-6, atol=1e-4)


@emulated
@pytest.mark.parametrize("kernel", ["neon-i8mm", "neon-dotprod", "neon-bf16", "neon-fma"])
@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_numbers_that_are_not_finite_stay_so(
    drivers: dict[str, Path], kernel: str, number: float
) -> None:
    kind = "Q8_0" if kernel in ("neon-i8mm", "neon-dotprod") else "BF16"
    x = inputs(20, 256)
    x[3, 5] = number
    y = multiply(drivers, kernel, kind, stored_weight(kind, 40, 256), x)
    assert not np.isfinite(y[3]).any() and np.isfinite(np.delete(y, 3, 0)).all()
