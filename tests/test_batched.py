"""The batched forward that benchmarks measure is the reference, many recordings at once."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.nn.attention import SDPBackend, sdpa_kernel  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from benchmarks.batched.floor import Clock, flops  # noqa: E402
from benchmarks.batched.model import FORMS, Batched, log_mels  # noqa: E402
from benchmarks.batched.passes import Runner  # noqa: E402
from granite_gguf.reference import Reference, log_mel  # noqa: E402
from tests.reference import tiny  # noqa: E402
from tests.signals import synthetic_audio  # noqa: E402

LAYOUT = "granite_speech_nar"
# Frames: less than an audio token, a whole block of 20, three of them and a part of a fourth, whose
# last window of the projector and of the hypothesis head is padded.
FRAMES = (3, 20, 67, 44)
Frames = tuple[int, ...]
CPU = torch.device("cpu")
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def recordings(frames: Frames) -> list[np.ndarray]:
    return [synthetic_audio(320 * n + 17 * k, k + 1) for k, n in enumerate(frames)]


def features(audio: list[np.ndarray]) -> torch.Tensor:
    counts = torch.tensor([len(samples) for samples in audio])
    padded = torch.zeros(len(audio), int(counts.max()))
    for row, samples in zip(padded, audio, strict=True):
        row[: len(samples)] = torch.from_numpy(samples)
    return log_mels(padded, counts, tiny.config(LAYOUT).front_end)


def runner() -> Runner:
    return Runner(Batched(tiny.model(LAYOUT), head_rows=7).eval())


def test_features_are_the_front_ends() -> None:
    audio = recordings(FRAMES)
    found = features(audio)
    for row, samples in zip(found, audio, strict=True):
        expected = log_mel(torch.from_numpy(samples), tiny.config(LAYOUT).front_end)
        torch.testing.assert_close(row[: len(expected)], expected, rtol=0, atol=1e-4)
        assert not row[len(expected) :].any()


@pytest.mark.parametrize("frames", [FRAMES, (67,), (60, 60, 60)], ids=["mixed", "one", "equal"])
@pytest.mark.parametrize("form", FORMS)
def test_it_is_the_reference(frames: Frames, form: str) -> None:
    audio, batched = recordings(frames), runner()
    for block in batched.model.blocks:
        block.form = form
    found = batched.run(features(audio), frames, Clock(CPU))
    reference = Reference(tiny.model(LAYOUT), tiny.tokenizer())
    expected = [reference.run(samples) for samples in audio]
    assert found.hypotheses == [stages.hypothesis_ids.tolist() for stages in expected]
    assert found.texts == [stages.text_ids_with_slots.tolist() for stages in expected]
    assert found.edited == [stages.edited_ids.tolist() for stages in expected]
    assert len(set(map(tuple, found.hypotheses))) == len(frames)
    # The best ids say little of what the editor saw of the audio.
    logits = np.concatenate([stages.editing_logits for stages in expected])
    found_logits = found.rows @ batched.model.embed_tokens.weight.T
    np.testing.assert_allclose(found_logits.numpy(), logits, rtol=0, atol=1e-4)


def test_padding_is_not_pooled() -> None:
    mel = features(recordings(FRAMES))
    _, pooled = runner().model.encode(mel, torch.tensor(FRAMES))
    encoder = tiny.model(LAYOUT).encoder
    for row, features_of_one, frames in zip(pooled, mel, FRAMES, strict=True):
        expected = encoder(features_of_one[None, :frames]).pooled[0]
        torch.testing.assert_close(row[: len(expected)], expected, rtol=0, atol=1e-5)


def test_forced_tokens_take_the_slots() -> None:
    found = runner().run(features(recordings((40, 40))), (40, 40), Clock(CPU), [[1, 2], [3]])
    assert found.texts == [[256, 1, 256, 2, 256, 256, 256, 256], [256, 3, *[256] * 6]]


def test_work_is_counted_as_pytorch_counts_it() -> None:
    batched, mel = runner(), features(recordings((60, 60)))
    # Fused attention is not counted on a CPU.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        found = batched.run(mel, (60, 60), Clock(CPU), [[5] * 9, [6] * 9])
    e = tiny.ENCODER
    # Keys of relative positions are rounded up, from 20 to 32, and pooling counts as a product.
    more = 2 * e.n_layers * 120 * (32 - 20) * e.n_heads * e.head_dim
    more += 2 * 120 * e.d_model
    work = flops(batched.config, (60, 60), [len(text) for text in found.texts])
    assert counter.get_total_flops() - more == sum(work.values())


@pytest.mark.slow
def test_the_benchmark_runs_and_needs_no_ggml(tmp_path: Path) -> None:
    tiny.write_checkpoint(tmp_path, LAYOUT)
    out = tmp_path / "found.jsonl"
    script = (
        "import runpy, sys; sys.modules['ggml'] = None; "
        "runpy.run_module('benchmarks.gpu_pytorch', run_name='__main__')"
    )
    options = "--device cpu --dtype f32 --lengths 1-2 --clips 4 --batch 2 --repeats 2 --warm-ups 0"
    command = [sys.executable, "-c", script, tmp_path, *options.split(), "--tokens-per-second", "5"]
    command += ["--check", "--cube", "32", "--profile", "2", "--out", out]
    printed = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout
    found = json.loads(out.read_text("utf-8"))
    assert found["passes"] == 2
    assert 4 < found["audio_seconds"] < 8
    assert found["text_rows"] > 2 * 5 * found["audio_seconds"]
    assert sum(found["stages"].values()) == pytest.approx(found["seconds"], rel=0.1)
    differences = [float(number) for number in re.findall(r"most (\S+)", printed)]
    assert len(differences) == 4
    assert max(differences) < 1e-5
    assert "aten::addmm" in printed
