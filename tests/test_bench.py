"""``bench``: the products it counts, and what it reports."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

import granite_gguf
from granite_gguf.bench import measure
from granite_gguf.errors import InputError
from granite_gguf.ggml import available_kernels, measure_bandwidth, measure_peak
from tests.signals import synthetic_audio


def test_products_are_those_of_the_table(models: dict[str, granite_gguf.Model]) -> None:
    """The FLOPs of the weights, from the shapes of the encoder's tensors and the frames."""
    model = models["nle"]
    mel = model.compute_mel(synthetic_audio(48_000, seed=3))
    with model.observe_products() as counted:
        model.run_encoder(mel)
    weights = sum(shape.flops * count for shape, count in counted.items() if shape.weight)
    expected = 0
    for spec in model.file.specs.values():
        if not spec.name.startswith("enc.") or spec.name.startswith("enc.bpe_out"):
            continue
        if spec.role.value in ("matrix", "pointwise"):
            width, rows = spec.shape[-2:]
            expected += 2 * width * rows * len(mel)
    assert weights == expected
    assert any(not shape.weight for shape in counted)


def test_attention_is_counted(models: dict[str, granite_gguf.Model]) -> None:
    model = models["nle"]
    e = model.hparams.editor
    ids = model.tokenize("one")
    audio = model.run_projector(_captured(model))
    with model.observe_products() as counted:
        model.run_editor(audio, ids)
    rows = 6 + len(ids)  # 30 frames are 6 audio tokens
    attention = sum(shape.flops * n for shape, n in counted.items() if not shape.weight)
    full = 4 * rows * rows * e.head_dim * e.n_heads  # of each layer but the last
    last = 4 * rows * len(ids) * e.head_dim * e.n_heads
    assert attention == (e.n_layers - 1) * full + last


def _captured(model: granite_gguf.Model) -> npt.NDArray[np.float32]:
    return model.run_encoder(model.compute_mel(synthetic_audio(9_600, seed=1))).captured


def test_measurement(f32_files: dict[str, Path], audio_file: Path) -> None:
    found = measure(f32_files["nle"], audio_file, threads=1, repeats=2)
    assert set(found.stages) >= {"features", "encoder", "hypothesis", "projector", "editor"}
    for name in ("encoder", "projector", "editor", "whole"):
        stage = found.stages[name]
        assert stage.floor is not None and stage.floor > 0 and stage.minimum <= stage.median
        assert stage.ratio == pytest.approx(stage.minimum / stage.floor)
        # The peak of a row of tiles is not measured; that of everything else is.
        assert (stage.peak is None) == (available_kernels()[:1] in ([], ["amx-bf16"]))
        assert stage.peak is None or 0 < stage.peak < 2 * stage.minimum
    assert found.stages["features"].floor is None
    assert found.duration == pytest.approx(3.0)
    assert found.peak_memory > found.file_size
    assert all(name.startswith("F32") for name in found.kernels["encoder"])


def test_peaks_are_those_of_the_instructions() -> None:
    """A vector of 16 floats, a multiply-add each cycle or two of them, at 1 to 6 GHz; memory."""
    products = {
        "avx512-vnni": (64, 2), "avx512-bf16": (32, 2), "avx512-fma": (16, 2),
        "avx2-int8": (32, 2), "avx2-fma": (8, 2),
    }  # fmt: skip
    for name in set(products) & set(available_kernels()):
        each, most = products[name]
        peak = measure_peak(name, 1)
        assert peak is not None and peak < 2 * each * most * 6e9, name
    if available_kernels():
        assert 1e8 < measure_bandwidth(1) < 1e12


def test_nothing_to_time(f32_files: dict[str, Path]) -> None:
    with pytest.raises(InputError, match="shorter than one frame"):
        measure(f32_files["nle"], synthetic_audio(100, seed=1), threads=1)


def test_command(f32_files: dict[str, Path], audio_file: Path) -> None:
    command = [sys.executable, "-m", "granite_gguf", "bench", str(f32_files["nle"])]
    command += [str(audio_file), "--threads", "1", "--repeats", "1", "--no-floor"]
    plain = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "encoder matrices" in plain.stdout and "times real time" in plain.stdout
    printed = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    report = json.loads(printed.stdout)
    assert report["stages"]["encoder"]["floor"] is None and report["threads"] == 1


@pytest.mark.slow
def test_long_audio_is_timed_without_a_floor(f32_files: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "long.wav"
    long = np.tile(synthetic_audio(42 * 16_000, seed=1), 10)  # longer than the editor's positions
    soundfile.write(path, long, 16_000)
    with pytest.raises(InputError, match=r"needs \d+ passes, and the floor is that of one"):
        measure(f32_files["nle"], path, threads=1)
    found = measure(f32_files["nle"], path, threads=1, repeats=1, with_floor=False)
    assert found.duration == 420 and found.text_rows is None
    assert found.stages["whole"].ratio is None
