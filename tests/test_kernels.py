"""The choice among ggml's kernels, and the packed ones against decoded weights."""

from __future__ import annotations

import pickle
from pathlib import Path

import gguf
import numpy as np
import pytest

import granite_gguf
from granite_gguf.errors import InputError
from granite_gguf.ggml import (
    F32,
    GGMLType,
    Graph,
    Packings,
    Runtime,
    WeightBuffer,
    available_kernels,
    mul_mat,
)
from granite_gguf.ggml.quants import encode_rows, prepare_encoding
from granite_gguf.placing.kernel_choice import GGML, Kernel, Kernels, Precision
from granite_gguf.quantize import quantize
from tests.signals import synthetic_audio

QUANTIZED = [
    GGMLType[name]
    for name in (
        *("Q8_0", "Q6_K", "Q5_K", "Q4_K", "Q3_K", "Q2_K"),
        *("Q5_0", "Q5_1", "Q4_0", "Q4_1", "IQ4_NL", "IQ4_XS"),
    )
]

THREADS = 2


@pytest.mark.parametrize("kind", QUANTIZED, ids=lambda kind: kind.name)
@pytest.mark.parametrize("columns", [1, 3, 40])
def test_the_chosen_kernel_multiplies_the_decoded_weight(
    runtime: Runtime, kind: GGMLType, columns: int
) -> None:
    """Whatever is chosen here, the product is that of gguf-py's decoding, up to 8-bit inputs."""
    width, rows = 512, 96
    kernel = Kernels(runtime, wanted=GGML).choose(kind, width, rows)
    assert kernel.type is kind
    rng = np.random.default_rng(int(kind))
    prepare_encoding(kind)
    weight = encode_rows(kind, rng.standard_normal((rows, width), dtype=np.float32))
    x = rng.standard_normal((columns, width), dtype=np.float32)
    buffer = WeightBuffer(runtime, 1)
    tensor = buffer.add("w", [width, rows], kind)
    buffer.allocate(kernel.packing and Packings(runtime).types[kernel.packing])
    buffer.fill("w", weight)
    with Graph() as graph:
        graph.output("y", mul_mat(tensor, graph.input("x", [width, columns])))
        y = runtime.compute(graph, {"x": x})["y"].reshape(columns, rows)
    buffer.close()
    expected = x @ gguf.quants.dequantize(weight, kind).T
    # Inputs in 8 bits: an error of up to 1/254 of the largest of each block.
    assert np.abs(y - expected).max() < 0.02 * np.abs(expected).max()
    assert np.corrcoef(y.ravel(), expected.ravel())[0, 1] > 0.9999


def test_matrices_that_no_packed_kernel_fits_stay_plain(runtime: Runtime) -> None:
    choice = Kernels(runtime, wanted=GGML)
    assert choice.choose(GGMLType.Q4_K, 512, 7) == Kernel(GGMLType.Q4_K)
    assert choice.choose(GGMLType.Q8_0, 32, 5) == Kernel(GGMLType.Q8_0)
    for kind in (GGMLType.F32, GGMLType.F16, GGMLType.BF16):
        assert choice.choose(kind, 512, 96) == Kernel(kind)
    packings = Packings(runtime)
    assert not packings.supports("CPU_REPACK", GGMLType.Q4_K, 160, 32)  # no whole block
    assert not packings.supports("no such packing", GGMLType.Q4_K, 256, 32)


def test_fast_products_come_close_to_exact_ones(f32_files: dict[str, Path]) -> None:
    path = f32_files["nle"]
    audio = synthetic_audio(48_000, seed=3)
    with (
        granite_gguf.load(path, device="cpu", threads=1, kernels=GGML) as exact,
        granite_gguf.load(path, device="cpu", threads=1, precision="fast", kernels=GGML) as fast,
    ):
        mel = exact.compute_mel(audio)
        a, b = exact.run_encoder(mel).final, fast.run_encoder(mel).final
    cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert cosines.min() > 0.99


def test_a_quantized_model_says_what_multiplies(
    f32_files: dict[str, Path], tmp_path: Path, runtime: Runtime
) -> None:
    path = tmp_path / "q8.gguf"
    quantize(f32_files["nle"], path, "q8_0")
    with granite_gguf.load(path, device="cpu", threads=1, kernels=GGML) as model:
        counts = model.kernels
        assert all(name.startswith("Q8_0") for name in counts["editor"])
        assert counts["encoder"].keys() == {"F32"}
        matrices = [spec for spec in model.file.specs.values() if spec.name.startswith("llm.blk.")]
        count = sum(1 for spec in matrices if len(spec.shape) == 2) + 1  # and the embedding
        assert sum(counts["editor"].values()) == count


def test_an_unknown_precision(f32_files: dict[str, Path]) -> None:
    with pytest.raises(InputError, match="'exact' or 'fast'"):
        granite_gguf.load(f32_files["nle"], precision="double")


def test_the_kernels_that_were_asked_for_multiply(f32_files: dict[str, Path]) -> None:
    path = f32_files["nle"]
    for name in available_kernels():
        with granite_gguf.load(path, device="cpu", threads=1, kernels=name) as model:
            used = model.kernels["encoder"]
            assert all(" by " in text for text in used), name
            copied = pickle.loads(pickle.dumps(model))
            with copied:
                assert copied.kernels == model.kernels
    with granite_gguf.load(path, device="cpu", threads=1, kernels="ggml") as model:
        assert model.kernels["encoder"].keys() == {"F32"}


def test_unknown_kernels(f32_files: dict[str, Path]) -> None:
    with pytest.raises(InputError, match=r"no kernels 'neon' for CPU; there are auto, .*ggml"):
        granite_gguf.load(f32_files["nle"], device="cpu", kernels="neon")


def test_precision_is_a_word() -> None:
    assert str(Precision.FAST) == "fast" and F32 is GGMLType.F32
