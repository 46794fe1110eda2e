"""The shipped demonstration model: where it comes from, and what it hears."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest

import granite_gguf
from granite_gguf.architectures import open_model_file
from granite_gguf.converters import convert
from granite_gguf.demo import DEMO_MODEL, DEMO_SAMPLES
from granite_gguf.ggml import available_kernels
from granite_gguf.placing.kernel_choice import GGML
from granite_gguf.quantize import Scope, quantize
from tests.kernels import with_each_kernel
from training import grammar, voices
from training.scoring import word_error_rate
from training.speech import speak, with_margins

ROOT = Path(__file__).resolve().parent.parent
CHECKPOINT = ROOT / "training" / "checkpoint"
NAME = "granite-nle-demo"


def text_of(sample: Path) -> str:
    return sample.with_suffix(".txt").read_text(encoding="utf-8").strip()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The trained checkpoint in each precision."""
    folder = tmp_path_factory.mktemp("demo")
    full = folder / f"{NAME}-F32.gguf"
    convert(CHECKPOINT, full, outtype="f32", name=NAME)
    convert(CHECKPOINT, folder / "f16.gguf", outtype="f16", name=NAME)
    for name in ("f16", "q8_0", "q6_k", "q4_k"):
        quantize(full, folder / f"{name}-all.gguf", name, scope=Scope.ALL)
    quantize(full, folder / "q4_k.gguf", "q4_k")
    quantize(full, folder / "q4_k_m-encf16.gguf", "q4_k_m", scope=Scope.ENC_F16)
    return {path.stem: path for path in folder.glob("*.gguf")}


def test_the_shipped_file_is_the_checkpoint_quantized(files: dict[str, Path]) -> None:
    shipped, made = (gguf.GGUFReader(path) for path in (DEMO_MODEL, files["q6_k-all"]))
    assert [t.name for t in shipped.tensors] == [t.name for t in made.tensors]
    for a, b in zip(shipped.tensors, made.tensors, strict=True):
        assert a.tensor_type == b.tensor_type
        # Processors without fused multiply-add may round a few of the blocks' scales otherwise.
        assert np.mean(a.data.view(np.uint8) == b.data.view(np.uint8)) > 0.999, a.name
    assert DEMO_MODEL.stat().st_size < 11e6
    policy = open_model_file(DEMO_MODEL).text("granite_nle.quantize.policy")
    assert policy == "q6_k quant-all"


def check_samples(model: granite_gguf.Model, *, own: bool) -> None:
    """Of ggml's products, which round activations more, one word of 40 may turn out otherwise."""
    pairs = [(text_of(sample), model.transcribe(sample).text.strip()) for sample in DEMO_SAMPLES]
    if own:
        assert [found for _, found in pairs] == [said for said, _ in pairs]
    assert word_error_rate(pairs) <= 0.04


@pytest.mark.parametrize(
    "name", ["f16", "f16-all", "q8_0-all", "q6_k-all", "q4_k", "q4_k-all", "q4_k_m-encf16"]
)
def test_samples_word_for_word(files: dict[str, Path], name: str) -> None:
    assert len(DEMO_SAMPLES) == 3
    with granite_gguf.load(files[name], threads=1) as model:
        check_samples(model, own=bool(available_kernels()))


@with_each_kernel
@pytest.mark.parametrize("name", ["shipped", "f16", "q4_k-all"])
def test_samples_word_for_word_with_each_kernel(
    files: dict[str, Path], name: str, kernels: str
) -> None:
    path = DEMO_MODEL if name == "shipped" else files[name]
    with granite_gguf.load(path, threads=1, kernels=kernels) as model:
        check_samples(model, own=kernels != GGML)
        own = {name for counts in model.kernels.values() for name in counts if " by " in name}
        assert bool(own) == (kernels != GGML)


def test_the_editor_sees_every_stage() -> None:
    """Nothing of the architecture is missing from the miniature."""
    h = open_model_file(DEMO_MODEL).hparams
    assert h.encoder.n_layers >= 4 and len(h.encoder.captured_layers) == 4
    assert 1 <= h.encoder.self_conditioning_layer < h.encoder.n_layers
    assert h.projector.n_layers == 2 and h.editor.n_layers >= 3
    widths = {info.shape[0] for info in open_model_file(DEMO_MODEL).container.tensors.values()}
    assert 256 in widths


def test_transcribe_without_a_model_says_what_it_uses() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "granite_gguf", "transcribe", str(DEMO_SAMPLES[0])],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert run.stdout.strip() == text_of(DEMO_SAMPLES[0])
    assert "demonstration model" in run.stderr and "-m" in run.stderr


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="needs espeak-ng")
def test_word_error_rate_on_voices_made_here(tmp_path: Path) -> None:
    """Held-out voices say sentences drawn here; the editor beats its hypothesis."""
    rng = random.Random(20)
    first, final = [], []
    with granite_gguf.load(DEMO_MODEL, threads=1) as model:
        for _ in range(60):
            sentence = grammar.sentence(rng)
            samples = with_margins(
                speak(sentence, voices.test_voice(rng)), np.random.default_rng(0)
            )
            result = model.transcribe(samples)
            first.append((sentence.text, result.hypothesis))
            final.append((sentence.text, result.text))
    assert word_error_rate(final) < 0.06
    assert word_error_rate(final) < word_error_rate(first)
