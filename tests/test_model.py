"""The Python API: lengths, threads, closing, refusals, memory."""

from __future__ import annotations

import importlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import granite_gguf
from granite_gguf import DeviceError, InputError, Model
from tests.kernels import with_each_kernel
from tests.signals import synthetic_audio


@pytest.mark.parametrize("samples", [0, 1, 256, 257, 319])
def test_audio_without_a_frame_has_no_text(models: dict[str, Model], samples: int) -> None:
    transcript = models["nle"].transcribe(synthetic_audio(samples, seed=1))
    assert (transcript.text, transcript.hypothesis) == ("", "")
    assert transcript.duration == samples / 16000


def test_a_transcript(models: dict[str, Model], audio_file: Path) -> None:
    model = models["granite_speech_nar"]
    transcript = model.transcribe(audio_file)
    assert transcript.duration == 3.0
    assert transcript.text == model.detokenize(np.array(transcript.token_ids)) != ""
    stages = ["audio", "features", "encoder", "hypothesis", "projector", "editor"]
    assert list(transcript.timings) == stages
    assert transcript.real_time_factor > 0
    assert transcript.to_dict()["token_ids"] == list(transcript.token_ids)


def test_files_arrays_rates_and_channels_agree(models: dict[str, Model], audio_file: Path) -> None:
    model = models["nle"]
    samples = synthetic_audio(48_000, seed=3)
    text = model.transcribe(audio_file).text
    assert model.transcribe(str(audio_file)).text == text
    assert model.transcribe(samples).text == text
    assert model.transcribe(np.stack([samples, samples], axis=1)).text == text
    assert model.transcribe(samples.astype(np.float64), sample_rate=16_000).text == text
    assert model.transcribe(np.repeat(samples, 2), sample_rate=32_000).duration == 3.0


def test_runs_are_bit_identical(models: dict[str, Model]) -> None:
    model = models["nle"]
    mel = model.compute_mel(synthetic_audio(80_000, seed=4))
    first, again = model.run_encoder(mel), model.run_encoder(mel)
    np.testing.assert_array_equal(first.captured, again.captured)


@pytest.mark.alone
def test_threads_take_turns(models: dict[str, Model]) -> None:
    model = models["nle"]
    clips = [synthetic_audio(16_000 * n, seed=n) for n in range(1, 9)]
    alone = [model.transcribe(clip).text for clip in clips]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda clip: model.transcribe(clip).text, clips)) == alone


@pytest.mark.alone
def test_thread_counts_agree(f32_files: dict[str, Path]) -> None:
    clip = synthetic_audio(100_000, seed=2)
    texts = set()
    for threads in (1, 2, 3):
        with granite_gguf.load(f32_files["nle"], threads=threads, device="cpu") as model:
            assert model.threads == threads
            texts.add(model.transcribe(clip).text)
    assert len(texts) == 1


def test_a_closed_model_says_so(f32_files: dict[str, Path]) -> None:
    model = granite_gguf.load(f32_files["nle"])
    model.close()
    model.close()
    with pytest.raises(InputError, match="closed"):
        model.transcribe(synthetic_audio(16_000, seed=1))


def test_devices(f32_files: dict[str, Path]) -> None:
    with granite_gguf.load(f32_files["nle"], device="CPU") as model:
        assert model.device.kind == "cpu"
    with pytest.raises(DeviceError, match=r"'cuda9' is not in this build.*CPU.*doctor"):
        granite_gguf.load(f32_files["nle"], device="cuda9")
    with pytest.raises(InputError, match="threads"):
        granite_gguf.load(f32_files["nle"], threads=0)


def test_weights_can_be_copied_to_the_device(
    f32_files: dict[str, Path], models: dict[str, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way of devices that cannot read mapped files, taken on the CPU."""
    clip = synthetic_audio(64_000, seed=2)
    monkeypatch.setattr(
        "granite_gguf.ggml.runtime.Runtime.maps_host_memory", property(lambda _self: False)
    )
    with granite_gguf.load(f32_files["nle"], device="cpu") as model:
        copied = model.run_encoder(model.compute_mel(clip))
    mapped = models["nle"].run_encoder(models["nle"].compute_mel(clip))
    np.testing.assert_array_equal(copied.captured, mapped.captured)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc")
@with_each_kernel
def test_low_memory_keeps_no_weights(f32_files: dict[str, Path], kernels: str) -> None:
    path = f32_files["nle"]

    def resident() -> int:
        """Bytes of the file's mapping that are in memory."""
        found, inside = 0, False
        for line in Path("/proc/self/smaps").read_text().splitlines():
            if "-" in line.split()[0]:
                inside = line.endswith(path.name)
            elif inside and line.startswith("Rss:"):
                found += int(line.split()[1]) << 10
        return found

    clip = synthetic_audio(48_000, seed=2)
    before = resident()  # other models of the same file
    kept = {}
    for low_memory in (False, True):
        with granite_gguf.load(
            path, device="cpu", threads=1, low_memory=low_memory, kernels=kernels
        ) as model:
            texts = [model.transcribe(clip).segments[0].token_ids for _ in range(2)]
            kept[low_memory] = (resident() - before, texts)
    assert kept[True][1] == kept[False][1]
    assert kept[False][0] > path.stat().st_size / 2
    assert kept[True][0] < kept[False][0] / 4


def test_wrong_arguments_of_stages(models: dict[str, Model]) -> None:
    model = models["nle"]
    good = model.compute_mel(synthetic_audio(8_000, seed=1))
    with pytest.raises(InputError, match=r"\(T, 160\)"):
        model.run_encoder(good[:, :80])
    with pytest.raises(InputError, match="T > 0"):
        model.run_encoder(good[:0])
    with pytest.raises(InputError, match="float64"):
        model.run_encoder(good.astype(np.float64))
    with pytest.raises(InputError, match="encoder_layer_99"):
        model.run_encoder(good, frozenset({"encoder_layer_99"}))
    with pytest.raises(InputError, match="vocabulary"):
        model.run_editor(np.zeros((0, 64), np.float32), np.array([0, 600]))
    with pytest.raises(InputError, match="vocabulary"):
        model.run_editor(np.zeros((0, 64), np.float32), np.array([-1]))
    with pytest.raises(InputError, match="n > 0"):
        model.run_editor(np.zeros((0, 64), np.float32), np.array([], np.int64))
    with pytest.raises(InputError, match="blank"):
        model.run_hypothesis_head(np.zeros((4, 64), np.float32), np.zeros(3, np.float32))
    with pytest.raises(InputError, match="sample_rate belongs"):
        model.transcribe("x.wav", sample_rate=8000)


def test_text_to_tokens_and_back(models: dict[str, Model]) -> None:
    for text in ("ask not what", "çà et là", "12345 + 6", " leading", "日本"):
        for model in models.values():
            assert model.detokenize(model.tokenize(text)) == text


def test_the_core_imports_neither_torch_nor_transformers() -> None:
    script = (
        "import sys, granite_gguf, granite_gguf.cli, granite_gguf.converters;"
        "print([m for m in ('torch', 'transformers') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("kept", [0, 4])
def test_loading_and_freeing_leaks_nothing(f32_files: dict[str, Path], kept: int) -> None:
    """And where every fourth model is kept, the measure says so."""
    script = """
import gc, sys, threading, granite_gguf
from pathlib import Path
from benchmarks.long_life import in_use_kb
from tests.signals import synthetic_audio
path, every = sys.argv[1], int(sys.argv[2])
clip = synthetic_audio(16_000, seed=1)
models = []
def cycle(number):
    model = granite_gguf.load(path, threads=1)
    model.transcribe(clip)
    if every and number % every == 0:
        models.append(model)
    else:
        model.close()
for n in range(10): cycle(n)
gc.collect(); before = in_use_kb()
for n in range(40): cycle(n)
gc.collect()
maps = Path("/proc/self/maps").read_text().count(path)
print(in_use_kb() - before, maps, threading.active_count() - 1)
"""
    run = subprocess.run(
        [sys.executable, "-c", script, str(f32_files["nle"]), str(kept)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    growth, maps, threads = map(int, run.stdout.split())
    model_kb = f32_files["nle"].stat().st_size // 1024
    if kept:
        assert growth > 10 * model_kb and maps >= 10
        assert threads == 1  # the models share it
    else:
        assert growth < model_kb // 2 and maps == threads == 0


def test_the_package_offers_what_the_command_does(
    checkpoints: dict[str, Path], audio_file: Path, tmp_path: Path
) -> None:
    """With names that stay functions whatever else is imported."""
    importlib.import_module("granite_gguf.cli")
    full, small = tmp_path / "full.gguf", tmp_path / "small.gguf"
    granite_gguf.convert(checkpoints["nle"], full, outtype="f32")
    granite_gguf.quantize(full, small, "q8_0")
    with (
        granite_gguf.load(full, threads=1) as exact,
        granite_gguf.load(small, threads=1) as rounded,
    ):
        found = granite_gguf.compare(rounded, exact, audio_file)
        from_file = granite_gguf.compare(rounded, full, audio_file)
        assert [stage.name for stage in found] == [stage.name for stage in from_file]
        editor = next(stage for stage in found if stage.name == "editing_logits")
        assert editor.comparison is not None and 0.9 < editor.comparison.cos_min < 1 - 1e-9


def test_the_package_evaluates(models: dict[str, Model], audio_file: Path, tmp_path: Path) -> None:
    pytest.importorskip("kaldialign")
    importlib.import_module("granite_gguf.cli")
    (tmp_path / "texts.tsv").write_text(f"audio\ttext\n{audio_file}\tnot what it says\n")
    evaluation = granite_gguf.evaluate(models["nle"], tmp_path / "texts.tsv", scoring="plain")
    assert evaluation.rows[0].score.words.errors > 0
    assert evaluation.versions["scoring"] == "plain"
