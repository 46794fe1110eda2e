"""An architecture is a record: whatever is around the models takes another one from the list."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path

import gguf
import pytest

import granite_gguf
from granite_gguf import architectures
from granite_gguf.converters.configs import READERS
from granite_gguf.nar.architecture import NAR_ARCHITECTURE
from granite_gguf.nar.spec import NAR
from granite_gguf.quantize import quantize
from granite_gguf.storage.dialects.own import Own
from tests.gguf_editing import rewrite
from tests.signals import synthetic_audio

ROOT = Path(__file__).resolve().parent.parent
OURS, OTHER = "granite_nle", "granite_other"

ROOMS = ("nar", "speech")
REGISTER = "granite_gguf/architectures.py"


def renamed(source: Path, target: Path) -> Path:
    """A file whose architecture, and with it every key of its own, has another name."""
    fields = gguf.GGUFReader(source).fields
    own = [key for key in fields if key.startswith(f"{OURS}.")]
    moved = {
        key.replace(OURS, OTHER, 1): (fields[key].contents(), fields[key].types[0]) for key in own
    }
    return rewrite(source, target, drop=own, replace=moved, architecture=OTHER)


@pytest.fixture
def second(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second architecture, which differs from the first in its name alone."""
    form = replace(NAR, name=OTHER, title="another model")
    record = replace(NAR_ARCHITECTURE, format=form, dialects=(Own(form),))
    monkeypatch.setattr(architectures, "ARCHITECTURES", (NAR_ARCHITECTURE, record))


@pytest.mark.usefixtures("second")
def test_another_architecture_is_one_line(f32_files: dict[str, Path], tmp_path: Path) -> None:
    ours = f32_files["granite_speech_nar"]
    other = renamed(ours, tmp_path / "other.gguf")
    audio = synthetic_audio(32_000, seed=5)
    with granite_gguf.load(ours) as a, granite_gguf.load(other) as b:
        assert a.hparams == b.hparams and (a.file.dialect, b.file.dialect) == (OURS, OTHER)
        assert a.transcribe(audio).text == b.transcribe(audio).text != ""
    smaller = quantize(other, tmp_path / "smaller.gguf", "q8_0").path
    fields = gguf.GGUFReader(smaller).fields
    assert fields["general.architecture"].contents() == OTHER
    assert fields[f"{OTHER}.quantize.policy"].contents() == "q8_0 editor"
    assert not any(key.startswith(f"{OURS}.") for key in fields)


def test_a_file_of_no_architecture_in_the_list(f32_files: dict[str, Path], tmp_path: Path) -> None:
    other = renamed(f32_files["nle"], tmp_path / "other.gguf")
    with pytest.raises(granite_gguf.UnsupportedModelError, match=f"holds '{OTHER}', expected"):
        granite_gguf.load(other)


def test_every_architecture_has_converters_in_a_room_of_its_name() -> None:
    assert [a.format for a in architectures.ARCHITECTURES] == [r.format for r in READERS]


@pytest.mark.parametrize("architecture", ROOMS)
def test_only_its_own_rooms_know_an_architecture(architecture: str) -> None:
    """Those, and the list; what is written in PyTorch shares nothing and has its own."""
    knowing = (f"granite_gguf/{architecture}/", f"converters/{architecture}/", REGISTER)
    for folder in ("granite_gguf", "converters", "quantize"):
        for path in (ROOT / folder).rglob("*.py"):
            name = path.relative_to(ROOT).as_posix()
            if name.startswith((*knowing, "granite_gguf/reference/")):
                continue
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
                assert architecture not in module.split("."), f"{name} imports {module}"
