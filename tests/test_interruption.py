"""Commands that are killed, run out of disk, or meet files that they may not touch."""

from __future__ import annotations

import hashlib
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from granite_gguf.architectures import open_model_file
from granite_gguf.demo import DEMO_MODEL, DEMO_SAMPLES
from granite_gguf.recorded.file import ARCHITECTURE, architecture, read_reference

# Says when its modules are loaded; before that the interpreter itself answers a signal.
SCRIPT = (
    "import sys; from granite_gguf.cli import main; sys.argv[0] = 'granite-gguf'; "
    "print('ready', flush=True); main()"
)
COMMAND = [sys.executable, "-c", SCRIPT]
ROOT = Path(__file__).resolve().parent.parent


def commands(checkpoint: Path, model: Path, output: Path) -> dict[str, list[object]]:
    return {
        "convert": ["convert", checkpoint, "-o", output / "out.gguf"],
        "quantize": ["quantize", model, output / "out.gguf", "q8_0", "--quant-all"],
        "reference": ["reference", checkpoint, DEMO_SAMPLES[0], "-o", output / "out.gguf"],
        "transcribe": [
            *("transcribe", "-m", DEMO_MODEL, DEMO_SAMPLES[0], "--output-dir", output),
            *("-f", "json", "-f", "txt"),
        ],
    }


def digest(paths: list[Path]) -> str:
    found = hashlib.sha256()
    for path in sorted(p for top in paths for p in ([top] if top.is_file() else top.rglob("*"))):
        if path.is_file():
            found.update(path.name.encode() + path.read_bytes())
    return found.hexdigest()


def start(arguments: list[object], prepare: Callable[[], None] | None = None) -> subprocess.Popen:
    return subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        preexec_fn=prepare,  # noqa: PLW1509 - no threads run here
    )  # fmt: skip


def check_complete(output: Path) -> None:
    """Whatever stands under a final name is whole."""
    for path in output.iterdir():
        if path.suffix == ".gguf":
            if architecture(path) == ARCHITECTURE:
                read_reference(path)
            else:
                open_model_file(path)
        elif path.suffix == ".json":
            assert path.read_text().rstrip().endswith("}")
        elif path.suffix == ".txt":
            assert (
                path.read_text().strip() == DEMO_SAMPLES[0].with_suffix(".txt").read_text().strip()
            )


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("name", ["convert", "quantize", "reference", "transcribe"])
def test_a_signal_at_any_moment(
    checkpoints: dict[str, Path],
    f32_files: dict[str, Path],
    tmp_path: Path,
    name: str,
    number: signal.Signals,
) -> None:
    if name == "reference":
        pytest.importorskip("torch")
    sources = [checkpoints["nle"], f32_files["nle"], DEMO_MODEL, DEMO_SAMPLES[0]]
    before = digest(sources)
    r = random.Random(f"{name} {number}")
    for attempt in range(2):
        output = tmp_path / str(attempt)
        output.mkdir()
        process = start(commands(checkpoints["nle"], f32_files["nle"], output)[name])
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        # PyTorch is loaded in the first seconds of `reference`.
        time.sleep(r.uniform(0.02, 3.0 if name == "reference" and attempt else 0.6))
        process.send_signal(number)
        _, stderr = process.communicate(timeout=60)
        check_complete_or_litter(output, killed=number is signal.SIGKILL)
        assert "Traceback" not in stderr
    assert digest(sources) == before


def check_complete_or_litter(output: Path, *, killed: bool) -> None:
    """After SIGKILL alone a temporary file may remain, under a name that nothing takes for one."""
    for path in list(output.iterdir()):
        if killed and path.name.startswith(".") and path.suffix == ".part":
            path.unlink()
    assert not [p.name for p in output.iterdir() if p.suffix == ".part"]
    check_complete(output)


def limited_files(limit: int) -> Callable[[], None]:
    def prepare() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the write fails instead, as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return prepare


@pytest.mark.parametrize("name", ["convert", "quantize"])
@pytest.mark.parametrize("limit", [0, 10_000, 500_000])
def test_no_room_on_the_disk(
    checkpoints: dict[str, Path], f32_files: dict[str, Path], tmp_path: Path, name: str, limit: int
) -> None:
    arguments = commands(checkpoints["nle"], f32_files["nle"], tmp_path)[name]
    process = start(arguments, limited_files(limit))
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 2, stderr
    assert "cannot be written" in stderr and "Traceback" not in stderr
    assert not list(tmp_path.iterdir())


def test_no_room_for_a_transcript(tmp_path: Path) -> None:
    arguments = ["transcribe", "-m", DEMO_MODEL, DEMO_SAMPLES[0], "--output-dir", tmp_path]
    process = start(arguments, limited_files(0))
    _, stderr = process.communicate(timeout=60)
    assert process.returncode in (1, 2), stderr
    assert "cannot be written" in stderr and "Traceback" not in stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become another user"
)
def test_a_folder_of_another_user(f32_files: dict[str, Path], tmp_path: Path) -> None:
    """Root may write everywhere, so the command runs as nobody."""
    script = (
        "import os, sys; from pathlib import Path; from granite_gguf.errors import OutputError\n"
        "from granite_gguf.files import replacing\n"
        "os.chdir(sys.argv[1]); os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "try:\n with replacing(Path('out.gguf'), force=True) as t: t.write_text('x')\n"
        "except OutputError as e: print(e)"
    )
    target = tmp_path / "out.gguf"
    target.write_text("kept")
    result = subprocess.run(
        [sys.executable, "-c", script, tmp_path],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert "cannot be written: Permission denied" in result.stdout, result.stderr
    assert target.read_text() == "kept" and len(list(tmp_path.iterdir())) == 1


def test_existing_outputs_are_kept(
    checkpoints: dict[str, Path], f32_files: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "out.gguf").write_text("mine")
    for name in ("convert", "quantize"):
        process = start(commands(checkpoints["nle"], f32_files["nle"], tmp_path)[name])
        _, stderr = process.communicate(timeout=60)
        assert process.returncode == 2 and "exists already" in stderr
    assert (tmp_path / "out.gguf").read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("force", [False, True])
def test_two_writers_of_one_file(f32_files: dict[str, Path], tmp_path: Path, force: bool) -> None:
    """One of them wins; the file is whole, and without --force the loser says so."""
    arguments = commands(Path(), f32_files["nle"], tmp_path)["quantize"]
    arguments += ["--force"] if force else []
    processes = [start(arguments) for _ in range(2)]
    errors = [process.communicate(timeout=60)[1] for process in processes]
    codes = sorted(process.returncode for process in processes)
    assert codes == ([0, 0] if force else [0, 2]), errors
    assert [path.name for path in tmp_path.iterdir()] == ["out.gguf"]
    open_model_file(tmp_path / "out.gguf")


@pytest.mark.parametrize("where", ["before", "behind"])
def test_an_interruption_beside_the_block_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Between what makes or takes away a temporary file, and what would take it away."""
    from granite_gguf import files

    class Interrupting(type(tmp_path)):  # type: ignore[misc]
        def touch(self, *arguments: Any, **named: Any) -> None:
            super().touch(*arguments, **named)
            if where == "before":
                raise KeyboardInterrupt

        def unlink(self, *_: Any, **__: Any) -> None:
            raise KeyboardInterrupt

    with (
        pytest.raises(KeyboardInterrupt),
        files.replacing(Interrupting(tmp_path / "a"), force=True),
    ):
        raise OSError("a full disk")
    (part,) = tmp_path.iterdir()
    assert part.name.startswith(".a.") and part.suffix == ".part"
    monkeypatch.setattr(Interrupting, "unlink", type(tmp_path).unlink)
    files.remove_unfinished()
    assert not list(tmp_path.iterdir())


def test_without_force_a_file_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    from granite_gguf.errors import OutputError
    from granite_gguf.files import replacing

    target = tmp_path / "late.gguf"
    with pytest.raises(OutputError, match="exists already"), replacing(target, force=False) as part:
        part.write_text("ours")
        target.write_text("theirs")
    assert target.read_text() == "theirs"
    assert [path.name for path in tmp_path.iterdir()] == ["late.gguf"]
