"""Ray itself: two machines on loopback, one of which is lost; and a command without the extra."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from granite_gguf.cli import app
from granite_gguf.errors import InputError


@pytest.mark.slow
@pytest.mark.alone
def test_a_machine_is_lost_and_no_recording() -> None:
    """Same texts as one process, all there, none twice, nothing done again by a second run."""
    pytest.importorskip("ray")
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.bulk", "killed", "--clips", "60", "--seconds", "0.5"],
        cwd=Path(__file__).resolve().parent.parent,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-4000:]
    assert "all there, none twice, the same texts" in run.stdout


WITHOUT = """
import sys
sys.modules["pyarrow"] = None
from granite_gguf.cli import main
main()
"""


@pytest.mark.slow
def test_what_is_missing_is_told(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT, "bulk", str(tmp_path), "-o", str(tmp_path / "out")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 2
    assert "needs it: pip install 'granite-gguf[ray]'" in run.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "option, value, says",
    [
        ("--prompt", "what?", "takes no prompt"),
        ("--cache", "f32", "keeps none"),
        ("--clip", "5-2", "begins at 5 s and ends at 2 s"),
        ("--clip", "a-b", "expected START-END in seconds"),
    ],
)
def test_what_cannot_be_done_is_told_before_ray_is_started(
    tmp_path: Path, option: str, value: str, says: str
) -> None:
    pytest.importorskip("ray")
    out = tmp_path / "out"
    done = CliRunner().invoke(app, ["bulk", str(tmp_path), "-o", str(out), option, value])
    assert isinstance(done.exception, InputError) and says in str(done.exception)
    assert not out.exists()


@pytest.mark.parametrize("address", ["", "head:6379"])
def test_no_cluster_is_joined_that_was_not_named(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    """Ray would join one that runs on this machine, or ran there and left its file."""
    pytest.importorskip("ray.data")
    from granite_gguf.bulk import run

    asked: list[dict[str, object]] = []
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr(run.ray, "init", lambda **options: asked.append(options))
    monkeypatch.setattr(run.ray, "shutdown", lambda: None)
    with run.ray_running(2):
        pass
    assert [options.get("address") for options in asked] == ["local" if not address else None]
    assert ("num_cpus" in asked[0]) == (not address)
