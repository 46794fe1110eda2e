"""`granite-gguf reference`: the PyTorch reference as a file, and what refuses to be one."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import gguf
import numpy as np
import pytest
import soundfile

from granite_gguf import Model
from granite_gguf.parity import diff_model, read_reference
from granite_gguf.sound.reading import read_audio
from tests.commands import assert_refused, run
from tests.signals import synthetic_audio
from tests.support.make_speech_checkpoint import make_speech_checkpoint

LAYOUTS = ("nle", "granite_speech_nar", "native")


def test_without_torch_the_extra_is_named(
    checkpoints: dict[str, Path], audio_file: Path, tmp_path: Path
) -> None:
    code = (
        "import sys; sys.modules['torch'] = None; sys.argv[0] = 'granite-gguf'\n"
        "from granite_gguf import cli; cli.main()"
    )
    arguments = ["reference", checkpoints["nle"], audio_file, "-o", tmp_path / "ref.gguf"]
    process = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert_refused(process, 2, "granite-gguf[reference]")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_staged_is_the_whole(layout: str, checkpoints: dict[str, Path]) -> None:
    """Loading stage by stage changes no number, and leaves no weights behind."""
    torch = pytest.importorskip("torch")
    from granite_gguf.reference import Reference
    from granite_gguf.reference.staged import StagedReference

    samples = synthetic_audio(20_000, seed=5)
    for dtype in (torch.float32, torch.bfloat16):
        whole = Reference.from_checkpoint(checkpoints[layout], dtype).run(samples)
        staged = StagedReference(checkpoints[layout], dtype)
        stages = staged.run(samples)
        for name, array in whole.arrays().items():
            np.testing.assert_array_equal(stages.arrays()[name], array, err_msg=name)
        assert (stages.text, stages.hypothesis_text) == (whole.text, whole.hypothesis_text)
        assert {parameter.device.type for parameter in staged.model.parameters()} == {"meta"}


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_models_pass_against_the_file(
    layout: str,
    checkpoints: dict[str, Path],
    models: dict[str, Model],
    audio_file: Path,
    tmp_path: Path,
) -> None:
    pytest.importorskip("torch")
    path = tmp_path / "ref.gguf"
    result = run("reference", checkpoints[layout], audio_file, "-o", path, "--revision", "abc")
    assert result.returncode == 0 and result.stdout == "", result.stderr
    assert f"layout {layout} in f32" in result.stderr
    fields = gguf.GGUFReader(path).fields
    assert fields["granite_nle.ref.layout"].contents() == layout
    assert fields["granite_nle.ref.revision"].contents() == "abc"
    digest = hashlib.sha256(audio_file.read_bytes()).hexdigest()
    assert fields["granite_nle.ref.audio_sha256"].contents() == digest
    assert fields["crispasr.ref.backend"].contents() == "granite_gguf.reference"
    model = models[layout]
    results = diff_model(model, read_reference(path), model.load_audio(audio_file))
    assert len(results) == 14
    assert all(stage.passed for stage in results), [s for s in results if not s.passed]
    again = run("reference", checkpoints[layout], audio_file, "-o", path)
    assert_refused(again, 2, "exists already")


@pytest.mark.slow
def test_bfloat16(
    checkpoints: dict[str, Path], models: dict[str, Model], audio_file: Path, tmp_path: Path
) -> None:
    """Computed in bfloat16, the reference itself is coarse, and the thresholds know it."""
    pytest.importorskip("torch")
    path = tmp_path / "ref.gguf"
    result = run("reference", checkpoints["nle"], audio_file, "-o", path, "--dtype", "bf16")
    assert result.returncode == 0, result.stderr
    samples = models["nle"].load_audio(audio_file)
    (stage,) = diff_model(models["nle"], read_reference(path), samples, stages=["projector_output"])
    assert stage.passed and stage.threshold == 0.999
    assert stage.comparison is not None and stage.comparison.cos_min < 0.99999


@pytest.mark.slow
def test_refusals(checkpoints: dict[str, Path], audio_file: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    output = tmp_path / "ref.gguf"
    arguments = (audio_file, "-o", output)
    assert_refused(run("reference", "no where", *arguments), 2, "neither a checkpoint")
    assert_refused(run("reference", tmp_path, *arguments), 2, "config.json")
    assert_refused(
        run("reference", checkpoints["nle"], tmp_path / "no.wav", "-o", output), 2, "no such file"
    )
    lacking = tmp_path / "lacking"
    shutil.copytree(checkpoints["nle"], lacking)
    (lacking / "model.safetensors").unlink()
    assert_refused(run("reference", lacking, *arguments), 2, "model.safetensors")
    assert not output.exists()


FAKE_CODE = '''
"""Stands in for a checkpoint's own modeling code: a module tree of the released names."""
import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.feature_extraction_utils import FeatureExtractionMixin
from granite_gguf.reference import Reference, load_model, load_tokenizer


class FakeConfig(PretrainedConfig):
    model_type = "granite_speech_nar"


class FakeExtractor(FeatureExtractionMixin):
    def __call__(self, audio, sampling_rate, return_tensors):
        assert sampling_rate == 16000 and return_tensors == "pt"
        return {"samples": audio.float()}


class FakeModel(PreTrainedModel):
    config_class = FakeConfig

    @classmethod
    def from_pretrained(cls, name, *args, config=None, **options):
        model = cls(config)
        whole = load_model(name, options.get("dtype") or torch.float32)
        model.encoder, model.projector = whole.encoder, whole.projector
        model.language_model = nn.Module()
        if "BROKEN" != "no":
            model.language_model.model = whole.editor
        model.reference = [Reference(whole, load_tokenizer(name))]
        return model

    def transcribe(self, samples):
        return [self.reference[0].run(samples.numpy()).text]
'''


@pytest.mark.slow
@pytest.mark.parametrize("broken", [False, True])
def test_upstream(
    broken: bool,
    checkpoints: dict[str, Path],
    models: dict[str, Model],
    audio_file: Path,
    tmp_path: Path,
) -> None:
    """The hooks find every stage in a module tree of the released names, or say what is missing."""
    import json

    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    directory = tmp_path / "checkpoint"
    shutil.copytree(checkpoints["granite_speech_nar"], directory)
    code = FAKE_CODE.replace('"BROKEN" != "no"', str(not broken))
    (directory / "modeling_fake.py").write_text(code)
    for name, classes in (
        ("config.json", {"AutoConfig": "FakeConfig", "AutoModel": "FakeModel"}),
        ("preprocessor_config.json", {"AutoFeatureExtractor": "FakeExtractor"}),
    ):
        fields = json.loads((directory / name).read_text())
        fields["auto_map"] = {key: f"modeling_fake.{value}" for key, value in classes.items()}
        (directory / name).write_text(json.dumps(fields))
    path = tmp_path / "ref.gguf"
    home = {"HF_HOME": str(tmp_path / "home")}
    result = run("reference", directory, audio_file, "-o", path, "--upstream", **home)
    assert "running the Python code" in result.stderr
    if broken:
        assert_refused(result, 2, "has no module llm.model.embed_tokens")
        return
    assert result.returncode == 0, result.stderr
    recorded = read_reference(path)
    assert recorded.about["upstream"] == "transcribe"
    model = models["granite_speech_nar"]
    results = diff_model(model, recorded, model.load_audio(audio_file))
    assert len(results) == 14
    assert all(stage.passed for stage in results), [s for s in results if not s.passed]


@pytest.mark.slow
def test_a_model_that_writes(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    pytest.importorskip("torch")
    audio, path = tmp_path / "speech.wav", tmp_path / "ref.gguf"
    soundfile.write(audio, synthetic_audio(8000, seed=3), 16_000, subtype="FLOAT")
    make_speech_checkpoint(tmp_path / "plus", layout="plus", dtype="f32")
    asked = ("--prompt", "say it", "--max-tokens", 3)
    result = run("reference", tmp_path / "plus", audio, "-o", path, *asked)
    assert result.returncode == 0 and result.stdout == "", result.stderr
    assert "12 stage outputs of layout plus in f32" in result.stderr
    reader = gguf.GGUFReader(path)
    assert reader.fields["granite_speech.ref.prompt"].contents() == "say it"
    assert reader.fields["granite_speech.ref.layout"].contents() == "plus"
    shapes = {tensor.name: tensor.shape.tolist() for tensor in reader.tensors}
    assert shapes["encoder_output"] == [128, 25] and shapes["projector_output"][1] == 6
    assert shapes["step_logits"][1] == 3 and shapes["prefill_logits"][1:] in ([], [1])
    types = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert types["prompt_ids"] == types["generated_ids"] == "I32" and types["step_logits"] == "F32"
    recorded = read_reference(path)
    assert recorded.architecture == "granite_speech" and recorded.about["dtype"] == "f32"
    assert (recorded.ids["prompt_ids"] == recorded.ids["prompt_ids"].max()).sum() == 6
    assert recorded.arrays["prefill_logits"].shape == (1, shapes["prefill_logits"][0])
    best = recorded.arrays["step_logits"].argmax(axis=-1)
    assert best.tolist() == recorded.ids["generated_ids"].tolist()
    edits = run("reference", checkpoints["nle"], audio, "-o", tmp_path / "nle.gguf", *asked)
    assert_refused(edits, 2, "is given no prompt")
    edits = run("reference", checkpoints["nle"], audio, "-o", path, *asked, "--upstream", "--force")
    assert_refused(edits, 2, "is given no prompt")


def test_what_only_its_own_code_reads_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from granite_gguf.reference.config import CheckpointError
    from granite_gguf.reference.speech.layouts import read_config

    make_speech_checkpoint(tmp_path / "oldest", layout="oldest")
    with pytest.raises(CheckpointError, match=r"is of granite-speech-3\.2.* compare its GGUF"):
        read_config(tmp_path / "oldest")


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["base", "plus", "lora"])
def test_upstream_of_models_that_write(layout: str, tmp_path: Path) -> None:
    """Transformers' own processor and classes, by hooks: as this package's PyTorch, to rounding."""
    pytest.importorskip("transformers")
    from granite_gguf.reference.recording import record_checkpoint

    audio, directory = tmp_path / "speech.wav", tmp_path / layout
    soundfile.write(audio, synthetic_audio(8000, seed=3), 16_000, subtype="FLOAT")
    make_speech_checkpoint(directory, layout=layout, dtype="f32")
    asked = ("--prompt", "say it", "--max-tokens", 5)
    path = tmp_path / "upstream.gguf"
    result = run("reference", directory, audio, "-o", path, "--upstream", *asked)
    try:
        import_module("torchaudio")
    except (ImportError, OSError):  # not there, or of another PyTorch
        assert_refused(result, 2, "torchaudio", "--upstream needs it for this model")
        return
    assert result.returncode == 0 and "running the Python code" not in result.stderr
    found = read_reference(path)
    assert found.about["upstream"] == "generate" and found.about["prompt"] == "say it"
    ours, _ = record_checkpoint(
        directory, read_audio(audio, 16_000), "f32", prompt="say it", max_tokens=5
    )
    assert found.arrays.keys() == ours.arrays.keys() and found.texts == ours.texts
    for name, array in ours.arrays.items():
        np.testing.assert_allclose(found.arrays[name], array, atol=2e-5, err_msg=name)
    for name, ids in ours.ids.items():
        assert found.ids[name].tolist() == ids.tolist(), name
