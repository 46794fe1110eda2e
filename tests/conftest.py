"""Tiny checkpoints and the files converted from them, made once a session."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

import granite_gguf
from granite_gguf.converters import convert
from tests.signals import synthetic_audio
from tests.support.make_checkpoint import LAYOUTS, make_checkpoint


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """A shell starts background jobs deaf to SIGINT, and processes started here would be, too."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def checkpoints(workspace: Path) -> dict[str, Path]:
    """A tiny float32 checkpoint of each layout, with the same weights."""
    made = {}
    for layout in LAYOUTS:
        made[layout] = workspace / f"tiny-{layout}"
        make_checkpoint(made[layout], layout=layout, size="tiny", seed=0, dtype="f32")
    return made


@pytest.fixture(scope="session")
def f32_files(checkpoints: dict[str, Path]) -> dict[str, Path]:
    """Each checkpoint converted to float32."""
    files = {}
    for layout, directory in checkpoints.items():
        files[layout] = directory.with_suffix(".gguf")
        convert(directory, files[layout], outtype="f32")
    return files


@pytest.fixture(scope="session")
def models(f32_files: dict[str, Path]) -> Iterator[dict[str, granite_gguf.Model]]:
    """Each float32 file loaded on the CPU; one thread is the fastest for models this small."""
    loaded = {
        layout: granite_gguf.load(path, device="cpu", threads=1)
        for layout, path in f32_files.items()
    }
    yield loaded
    for model in loaded.values():
        model.close()


@pytest.fixture(scope="session")
def audio_file(workspace: Path) -> Path:
    """Three seconds of synthetic audio as a WAV file."""
    import soundfile

    path = workspace / "three seconds.wav"
    soundfile.write(path, synthetic_audio(48_000, seed=3), 16_000, subtype="FLOAT")
    return path
