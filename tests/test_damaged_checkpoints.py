"""Damaged and hostile checkpoints and tokenizers: an error of the package's own, or a good file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import granite_gguf
from granite_gguf import CheckpointError, GraniteError, ModelFileError
from granite_gguf.architectures import open_model_file
from granite_gguf.converters import convert
from tests.gguf_editing import rewrite
from tests.signals import synthetic_audio
from tests.support.checkpoint_mutator import damage


def damaged(source: Path, scratch: Path, seed: int) -> str:
    """A copy whose large files are shared until one of them is damaged."""
    shutil.rmtree(scratch, ignore_errors=True)
    shutil.copytree(source, scratch, copy_function=lambda a, b: Path(b).hardlink_to(a))
    return damage(scratch, seed)


@pytest.mark.slow
@settings(
    max_examples=120,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(seed=st.integers(0, 2**40))
def test_a_damaged_checkpoint_is_refused_or_converted(
    checkpoints: dict[str, Path], tmp_path: Path, seed: int
) -> None:
    layout = ("nle", "granite_speech_nar", "native")[seed % 3]
    damaged(checkpoints[layout], tmp_path / "checkpoint", seed)
    output = tmp_path / "out.gguf"
    output.unlink(missing_ok=True)
    try:
        convert(tmp_path / "checkpoint", output, outtype="f32")
    except GraniteError as error:
        assert len(str(error)) < 4000
        assert not output.exists()
    else:
        open_model_file(output)
    assert {path.name for path in tmp_path.iterdir()} <= {"checkpoint", "out.gguf"}


def edit_tokenizer(text: str, change: Callable[[Any], None]) -> str:
    fields = json.loads(text)
    change(fields)
    return json.dumps(fields)


PADDING = {
    "strategy": {"Fixed": 10**6},
    "direction": "Right",
    "pad_to_multiple_of": None,
    "pad_id": 0,
    "pad_type_id": 0,
    "pad_token": "x",
}
CUT = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 5}


@pytest.mark.parametrize("change", [{"padding": PADDING}, {"truncation": CUT}])
def test_texts_are_neither_cut_nor_filled_up(
    f32_files: dict[str, Path], tmp_path: Path, change: dict[str, Any]
) -> None:
    own = open_model_file(f32_files["nle"]).text("tokenizer.huggingface.json")
    assert own is not None
    text = edit_tokenizer(own, lambda fields: fields.update(change))
    path = with_tokenizer(f32_files["nle"], tmp_path, text)
    audio = synthetic_audio(48_000, seed=3)
    with granite_gguf.load(path) as a, granite_gguf.load(f32_files["nle"]) as b:
        np.testing.assert_array_equal(a.tokenize("one two three"), b.tokenize("one two three"))
        assert a.transcribe(audio).text == b.transcribe(audio).text != ""


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda f: f["model"]["vocab"].update(hello=10**9), "has a token 1000000000"),
        (lambda f: f["model"].update(continuing_subword_prefix="##"), "cannot be read"),
        (lambda f: f["model"]["merges"].insert(0, ["zzz", "qqq"]), "cannot be read"),
    ],
)
def test_unusable_tokenizers_are_named(
    f32_files: dict[str, Path], tmp_path: Path, change: Callable[[Any], None], says: str
) -> None:
    """The second makes the library panic, which is no ``Exception``."""
    own = open_model_file(f32_files["nle"]).text("tokenizer.huggingface.json")
    assert own is not None
    path = with_tokenizer(f32_files["nle"], tmp_path, edit_tokenizer(own, change))
    with pytest.raises(ModelFileError, match=rf"changed\.gguf: .*{says}"):
        granite_gguf.load(path)


def with_tokenizer(source: Path, directory: Path, text: str) -> Path:
    import gguf

    new = {"tokenizer.huggingface.json": (text, gguf.GGUFValueType.STRING)}
    return rewrite(source, directory / "changed.gguf", replace=new)


@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/passwd", "..", "", 5, None])
def test_shards_lie_beside_their_index(
    checkpoints: dict[str, Path], tmp_path: Path, name: object
) -> None:
    target = tmp_path / "checkpoint"
    shutil.copytree(checkpoints["nle"], target)
    shutil.move(target / "model.safetensors", tmp_path / "outside.safetensors")
    index = {"weight_map": {"a": name, "b": name}}
    (target / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"index\.json"):
        convert(target, tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()
