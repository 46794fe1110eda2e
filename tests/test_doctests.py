"""The examples of docstrings run as they stand, on the tiny checkpoint."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import shutil
from pathlib import Path

import pytest

import granite_gguf
from granite_gguf import Model
from tests.signals import synthetic_audio


def with_examples() -> list[str]:
    """Modules of the package that have examples; the reference package needs PyTorch."""
    found = ["granite_gguf"]
    for module in pkgutil.walk_packages(granite_gguf.__path__, "granite_gguf."):
        if module.ispkg and module.name == "granite_gguf.reference":
            continue
        if not module.name.startswith(("granite_gguf.reference", "granite_gguf.__main__")):
            source = Path(getattr(module.module_finder, "path", "")) / (
                module.name.rpartition(".")[2] + (".py" if not module.ispkg else "/__init__.py")
            )
            if ">>> " in source.read_text(encoding="utf-8"):
                found.append(module.name)
    return found


MODULES = with_examples()
NEEDS = {"granite_gguf.evaluation.run": "kaldialign"}


def test_examples_are_found() -> None:
    assert {"granite_gguf", "granite_gguf.model", "granite_gguf.sound.pieces"} <= set(MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_examples(
    name: str,
    models: dict[str, Model],
    f32_files: dict[str, Path],
    audio_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    shutil.copy(f32_files["granite_speech_nar"], tmp_path / "model.gguf")
    shutil.copy(audio_file, tmp_path / "speech.wav")
    monkeypatch.chdir(tmp_path)
    given = {"model": models["granite_speech_nar"], "samples": synthetic_audio(48_000, seed=3)}
    result = doctest.testmod(importlib.import_module(name), extraglobs=given)
    assert result.attempted > 0 and result.failed == 0
