"""Each kernel and product on a GPU against numpy's float32; where there is one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import granite_gguf
from granite_gguf.cuda.arrays import Heads, Norm
from granite_gguf.cuda.device import CudaDevice
from granite_gguf.cuda.gpu import find_gpu
from granite_gguf.demo import DEMO_SAMPLES
from tests.support.plain_device import PlainDevice

pytestmark = pytest.mark.skipif(find_gpu("auto") is None, reason="no GPU that CuPy finds")

RECORDINGS = np.array([37, 20, 5], np.int32)  # rows of each, filled up to 37
ROWS = 37


@pytest.fixture(scope="module")
def device() -> Iterator[CudaDevice]:
    gpu = find_gpu("cuda")
    assert gpu is not None
    found = CudaDevice(15, 2048, gpu)
    with found.working():
        yield found


class Draw:
    """Random numbers, in the types that the kernels take."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)

    def half(self, *shape: int, scale: float = 1.0) -> np.ndarray:
        return self.rng.normal(0, scale, shape).astype(np.float16)

    def single(self, *shape: int) -> np.ndarray:
        return self.rng.normal(0, 1, shape).astype(np.float32)

    def below(self, most: int, count: int) -> np.ndarray:
        return self.rng.integers(0, most, count).astype(np.int32)

    def rows_behind(self, rows: int, width: int, scale: float = 1.0) -> np.ndarray:
        """With the rows that attention may read behind the last."""
        return np.concatenate([self.half(rows, width, scale=scale), np.zeros((16, width), "f2")])


@pytest.fixture
def draw() -> Draw:
    return Draw()


def agree(device: CudaDevice, work: Callable[..., Any], *given: Any) -> None:
    """The same from the GPU and from numpy: but for half a unit of half precision, and a bit."""
    here = PlainDevice()
    found = work(device, *(device.upload(x) for x in given))
    expected = work(here, *(here.upload(x) for x in given))
    together = (found, expected) if isinstance(found, tuple) else ((found,), (expected,))
    for one, other in zip(*together, strict=True):
        got, wanted = device.download(one).astype(np.float64), np.asarray(other, np.float64)
        assert got.shape == wanted.shape and np.isfinite(got).all()
        assert np.linalg.norm(got - wanted) <= 6e-4 * np.linalg.norm(wanted)


@pytest.mark.parametrize(("rows", "width"), [(300, 1024), (77, 2048), (5, 160)])
def test_products(device: CudaDevice, draw: Draw, rows: int, width: int) -> None:
    x, weight = draw.half(rows, width), draw.half(512, width, scale=0.05)
    agree(device, lambda on, *given: on.product(*given), x, weight)
    agree(device, lambda on, *given: on.product(*given, float32=True), x, weight)


@pytest.mark.parametrize("width", [64, 256, 1024, 2048])
def test_residuals_and_norms(device: CudaDevice, draw: Draw, width: int) -> None:
    def twice(on: Any, x: Any, y: Any, bias: Any, *norms: Any) -> Any:
        post, norm = Norm(*norms[:2], 1e-5), Norm(*norms[2:], 1e-5)
        out = on.residual_norm(x, y, bias, 0.5, post=post, norm=norm)
        return x, out

    def root_mean_square(on: Any, x: Any, y: Any, gain: Any) -> Any:
        out = on.residual_norm(x, y, None, 0.22, norm=Norm(gain, None, 1e-5))
        return x, out

    x, y, gains = draw.single(37, width), draw.half(37, width), draw.single(5, width)
    agree(device, twice, x, y, *gains)
    agree(device, root_mean_square, x, y, gains[0])


def test_element_by_element(device: CudaDevice, draw: Draw) -> None:
    wide, bias = draw.half(3 * ROWS, 4096), draw.single(4096)
    agree(device, lambda on, y, b: on.silu_bias(y, b), wide, bias)
    agree(device, lambda on, y, b: on.scale_bias(y, b, 0.1), wide, bias)
    agree(device, lambda on, y: on.swiglu(y), wide)
    agree(device, lambda on, y, b, n: on.glu_bias(y, b, n, ROWS), wide, bias, RECORDINGS)
    agree(device, lambda on, y, b, n: on.gelu_windows(y, b, n, ROWS, 45), wide, bias, RECORDINGS)


def test_convolution(device: CudaDevice, draw: Draw) -> None:
    given = draw.half(3 * ROWS, 2048), draw.single(15, 2048), draw.single(2048)
    agree(device, lambda on, *of: on.conv_silu(*of, ROWS), *given)


def test_posterior_and_pooling(device: CudaDevice, draw: Draw) -> None:
    def posterior(on: Any, y: Any, bias: Any) -> Any:
        blank = on.posterior(y, bias)
        return blank, y

    agree(device, posterior, draw.half(50, 352), draw.single(348))
    given = draw.single(3 * ROWS, 1024), draw.rng.uniform(0, 1, 3 * ROWS).astype("f4"), RECORDINGS
    agree(device, lambda on, *of: on.pool(*of, ROWS, 4, 1e-8), *given)


def test_best_of_each_row(device: CudaDevice, draw: Draw) -> None:
    agree(
        device, lambda on, *of: on.best(*of, 10_003, 0.5), draw.single(50, 10_008),
        draw.single(10_003),
    )  # fmt: skip
    agree(device, lambda on, x: on.best(x, None, 100_352, 0.125), 8 * draw.single(50, 100_352))
    alike = np.zeros((3, 64), np.float32)
    assert device.download(device.best(device.upload(alike), None, 60)[0]).tolist() == [0, 0, 0]


def test_rows_and_positions(device: CudaDevice, draw: Draw) -> None:
    numbers, x, h = draw.below(29, 40), draw.single(29, 2048), draw.half(29, 2048)
    agree(device, lambda on, *of: on.rows_of(*of, 12.0), h[:20], h[20:], numbers)
    agree(device, lambda on, *of: on.some_rows(*of), x, h, numbers)

    def turned(on: Any, y: Any, positions: Any, angles: Any) -> Any:
        on.rope(y, 20, 128, positions, angles)
        return y

    angles = draw.rng.uniform(0, 6, (60, 64))
    angles = np.stack([np.cos(angles), np.sin(angles)], axis=2).astype(np.float32)
    agree(device, turned, draw.half(50, 3072), draw.below(60, 50), angles)


def test_attention_in_blocks_with_relative_positions(device: CudaDevice, draw: Draw) -> None:
    def attended(on: Any, qkv: Any, counts: Any, relative: Any) -> Any:
        out = on.zeros((1500, 1024))
        q, k, v = (Heads(qkv, part * 1024, 500, 128) for part in range(3))
        for start in range(0, 500, 200):
            on.attend(
                q, k, v, out, 8, 1, 3, scale=128**-0.5, counts=counts, start=start,
                length=min(200, 500 - start), relative=relative,
            )  # fmt: skip
        return out

    counts = np.array([500, 333, 20], np.int32)
    agree(device, attended, draw.rows_behind(1500, 3072), counts, draw.half(399 + 32, 128))


@pytest.mark.parametrize("rows", [16, 177, 480, 2000])
def test_attention_with_shared_keys(device: CudaDevice, draw: Draw, rows: int) -> None:
    def attended(on: Any, asking: Any, qkv: Any, counts: Any) -> Any:
        all_rows, some = on.zeros((3 * rows, 2048)), on.zeros((3 * 61, 2048))
        k, v = Heads(qkv, 2048, rows, 128), Heads(qkv, 2560, rows, 128)
        more = {"scale": 1 / 128, "counts": counts}
        on.attend(Heads(qkv, 0, rows, 128), k, v, all_rows, 16, 4, 3, **more)
        on.attend(Heads(asking, 0, 61, 128), k, v, some, 16, 4, 3, **more)
        return all_rows, some

    counts = np.array([rows, rows // 2, 3], np.int32)
    given = draw.rows_behind(3 * 61, 2048), draw.rows_behind(3 * rows, 3072, 3.0)
    agree(device, attended, *given, counts)


def test_windows(device: CudaDevice, draw: Draw) -> None:
    given = draw.half(60, 2048), draw.single(15, 2048), draw.single(3, 2048)
    agree(device, lambda on, *of: on.window_inputs(*of), *given)
    q, k, v, biases = draw.half(12, 2048), *draw.half(2, 60, 2048), draw.single(3, 2048)
    agree(
        device, lambda on, q, k, v, *of: on.attend_windows(q, k, v, of, 3, 15, 32), q, k, v,
        *biases,
    )  # fmt: skip


@pytest.mark.parametrize("kind", [np.float32, np.float16, np.uint16])
def test_matrices_of_a_file(device: CudaDevice, draw: Draw, kind: type) -> None:
    numbers = draw.single(5, 12)
    stored = (numbers.view(np.uint32) >> 16).astype(kind) if kind is np.uint16 else numbers
    parts = [stored.astype(kind), stored.astype(kind)]
    placed = device.matrix(parts)
    assert placed is not None
    expected = PlainDevice().matrix(parts).astype(np.float16)
    np.testing.assert_array_equal(device.download(placed), expected)
    assert kind is not np.float32 or device.matrix([np.full((8, 8), 1e6, np.float32)]) is None


def test_the_sample_word_for_word() -> None:
    with granite_gguf.load(device="cuda") as model:
        assert model.device.name == "cuda:0" and model.device.kind == "gpu"
        for sample in DEMO_SAMPLES:
            said = sample.with_suffix(".txt").read_text(encoding="utf-8").strip()
            assert model.transcribe(sample, word_times=True).text.strip() == said
        together = list(model.transcribe_many(list(DEMO_SAMPLES) * 8))
        assert all(isinstance(one, granite_gguf.Transcript) for one in together)
        assert max(model.passes) > 1
