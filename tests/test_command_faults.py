"""The command where the world around it is at fault: streams, disks, encodings, odd names."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from granite_gguf.cli.inputs import parse_shard
from granite_gguf.demo import DEMO_SAMPLES
from granite_gguf.errors import InputError
from tests.commands import run
from tests.test_cli import COMMANDS

SAMPLE = DEMO_SAMPLES[0]
SPOKEN = SAMPLE.with_suffix(".txt").read_text(encoding="utf-8").strip()
FULL = Path("/dev/full")

full_disk = pytest.mark.skipif(not FULL.exists(), reason="the system has no /dev/full")


def shell(command: str, *, folder: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run ``granite-gguf`` inside a line of shell; the streams are bytes."""
    return subprocess.run(
        ["bash", "-c", command.replace("granite-gguf", f"'{sys.executable}' -m granite_gguf")],
        capture_output=True, cwd=folder, timeout=120, check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONUTF8": "0", **environment},
    )  # fmt: skip


def copies(folder: Path, *names: str) -> None:
    for name in names:
        shutil.copy(SAMPLE, folder / name)


# What the encoding of standard output lacks


def test_a_character_that_the_encoding_lacks(tmp_path: Path) -> None:
    copies(tmp_path, "1 née 中😀.flac", "2.flac")
    found = shell("granite-gguf transcribe -q *.flac", folder=tmp_path, PYTHONIOENCODING="cp1252")
    expected = f"1 née \\u4e2d\\ud83d\\ude00.flac\t{SPOKEN}\n2.flac\t{SPOKEN}\n"
    assert (found.returncode, found.stdout.decode("cp1252")) == (0, expected)
    (note,) = found.stderr.decode("cp1252").splitlines()
    assert "cp1252, which lacks U+4E2D, U+1F600" in note and "PYTHONIOENCODING=utf-8" in note


def test_json_stays_json_in_any_encoding(tmp_path: Path) -> None:
    name = "née 中😀.flac"
    copies(tmp_path, name)
    for encoding in ("cp1252", "ascii", "utf-8"):
        found = shell(
            "granite-gguf transcribe -q --json *.flac", folder=tmp_path, PYTHONIOENCODING=encoding
        )
        assert found.returncode == 0
        values = json.loads(found.stdout.decode(encoding))
        assert (values["file"], values["text"]) == (name, SPOKEN)


# Standard output that cannot be written


@full_disk
@pytest.mark.parametrize(
    "command",
    ["transcribe -q a.flac", "transcribe -q --json a.flac", "transcribe -q a.flac a.flac",
     "doctor", "doctor --json", "models", "--version", "--help", "transcribe --help"],
)  # fmt: skip
def test_a_full_disk_is_one_error(tmp_path: Path, command: str) -> None:
    copies(tmp_path, "a.flac")
    found = shell(f"granite-gguf {command} > /dev/full", folder=tmp_path)
    assert found.returncode == 2
    assert found.stderr.decode().splitlines() == [
        "error: standard output cannot be written: No space left on device"
    ]


def test_closed_standard_output_is_an_error(tmp_path: Path) -> None:
    copies(tmp_path, "a.flac")
    found = shell("granite-gguf transcribe -q a.flac >&-", folder=tmp_path)
    assert found.returncode == 2
    assert found.stderr == b"error: standard output cannot be written: it is closed\n"
    files = shell("granite-gguf transcribe -q a.flac -o out >&-", folder=tmp_path)
    assert (files.returncode, files.stderr) == (0, b"")
    assert (tmp_path / "out" / "a.txt").read_text() == SPOKEN + "\n"


@full_disk
def test_results_survive_a_full_disk_behind_stderr(tmp_path: Path) -> None:
    copies(tmp_path, "a.flac")
    found = shell("granite-gguf transcribe a.flac 2> /dev/full", folder=tmp_path)
    assert (found.returncode, found.stdout.decode()) == (0, SPOKEN + "\n")


def test_a_reader_that_leaves_is_no_error(tmp_path: Path) -> None:
    copies(tmp_path, *(f"{n}.flac" for n in range(9)))
    found = shell("granite-gguf transcribe -q *.flac | head -n 1", folder=tmp_path)
    assert (found.stdout.decode(), found.stderr) == (f"0.flac\t{SPOKEN}\n", b"")


def test_a_file_that_cannot_be_written_does_not_stop_the_others(tmp_path: Path) -> None:
    """JSON is above the limit of a file's size, which fails as a full disk does; text below."""
    copies(tmp_path, "a.flac", "b.flac")

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))

    found = subprocess.run(
        [sys.executable, "-m", "granite_gguf", "transcribe", "a.flac", "b.flac", "-o", "out",
         "-f", "txt", "-f", "json"],
        capture_output=True, text=True, cwd=tmp_path, check=False,
        preexec_fn=limit,
    )  # fmt: skip
    assert found.returncode == 1 and "Traceback" not in found.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.txt", "b.txt"]
    assert "0 of 2 recordings transcribed" in found.stderr
    for name in "ab":
        assert f"failed: {name}.flac: out/{name}.json: cannot be written: File too large" in (
            found.stderr
        )


# Faults of the package


def test_a_fault_is_one_line_and_the_others_are_transcribed(tmp_path: Path) -> None:
    copies(tmp_path, "1.flac", "2.flac", "3.flac")
    script = (
        "import sys; from granite_gguf import cli; from granite_gguf.cli import job\n"
        "render = job.FORMATS['jsonl'].render\n"
        "def broken(name, *rest):\n"
        "    if name == '2.flac': raise KeyError('broken on purpose')\n"
        "    return render(name, *rest)\n"
        "object.__setattr__(job.FORMATS['jsonl'], 'render', broken)\n"
        "sys.argv[0] = 'granite-gguf'; cli.main()"
    )
    command = [sys.executable, "-c", script, "transcribe", "--json", "1.flac", "2.flac", "3.flac"]

    def outcome(**environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, capture_output=True, text=True, cwd=tmp_path, check=False,
            env={**os.environ, **environment},
        )  # fmt: skip

    found = outcome()
    assert found.returncode == 1
    names = [json.loads(line)["file"] for line in found.stdout.splitlines()]
    assert names == ["1.flac", "3.flac"]
    (line,) = (line for line in found.stderr.splitlines() if line.startswith("error:"))
    assert line.startswith("error: 2.flac: KeyError: 'broken on purpose'")
    assert "fault of granite-gguf" in line and "GRANITE_GGUF_TRACEBACK=1" in line
    assert "Traceback" not in found.stderr and "2 of 3 recordings" in found.stderr
    assert "Traceback" in outcome(GRANITE_GGUF_TRACEBACK="1").stderr


def test_a_fault_of_any_command_is_one_line() -> None:
    script = (
        "import sys; from granite_gguf import cli; from granite_gguf.cli import doctor\n"
        "def broken(): raise ZeroDivisionError('on purpose')\n"
        "doctor.build_info = broken; sys.argv[0] = 'granite-gguf'; cli.main()"
    )
    found = subprocess.run(
        [sys.executable, "-c", script, "doctor"], capture_output=True, text=True, check=False
    )
    assert found.returncode == 70
    (line,) = found.stderr.splitlines()
    assert line.startswith("error: ZeroDivisionError: on purpose (<string>, line 2).")


# Names


def test_names_cannot_break_lines_or_reach_a_terminal(tmp_path: Path) -> None:
    name = "a\nb\tc\x1b[31m\udcff.flac"
    shown = "a\\nb\\tc\\x1b[31m\\udcff.flac"
    copies(tmp_path, name, "z.flac")
    found = shell("granite-gguf transcribe *.flac", folder=tmp_path)
    assert found.returncode == 0
    assert found.stdout.decode().splitlines() == [f"{shown}\t{SPOKEN}", f"z.flac\t{SPOKEN}"]
    lines = shell("granite-gguf transcribe --json *.flac", folder=tmp_path).stdout
    assert json.loads(lines.decode().splitlines()[0])["file"] == name
    files = shell("granite-gguf transcribe -v -f json -o out *.flac", folder=tmp_path)
    assert files.returncode == 0 and b"\x1b" not in files.stderr
    stored = (tmp_path / "out" / name).with_suffix(".json").read_text(encoding="utf-8")
    assert json.loads(stored)["file"] == name


@pytest.mark.parametrize(
    "command",
    ["transcribe *.wav", "transcribe -m *.wav x", "inspect *.wav", "eval -m *.wav *.wav",
     "diff *.wav *.wav *.wav", "bench *.wav *.wav", "convert *.wav", "quantize *.wav q8_0 *.wav",
     "imatrix *.wav *.wav -o x", "reference *.wav *.wav -o x", "models *.wav", "*.wav",
     "transcribe -- *.wav --x *.wav", "transcribe --*.wav", "transcribe -q --batch *.wav"],
)  # fmt: skip
def test_errors_repeat_no_control_characters(tmp_path: Path, command: str) -> None:
    for name in ("bad\x1b[31m\n\udcff.wav", "--bad\x1b[31m.wav"):
        (tmp_path / name).write_bytes(b"\xff\xfe no audio")
    found = shell(f"granite-gguf {command}", folder=tmp_path)
    assert found.returncode in (1, 2), found.stderr
    assert b"\x1b" not in found.stderr + found.stdout and b"Traceback" not in found.stderr
    assert found.stderr.startswith((b"error: ", b"note: "))


def test_a_name_that_begins_with_a_dash(tmp_path: Path) -> None:
    copies(tmp_path, "-dash.flac", "a.flac")
    for arguments in ("-dash.flac", "*.flac", "-dash.wav"):
        found = shell(f"granite-gguf transcribe {arguments}", folder=tmp_path)
        assert found.returncode == 2 and b"or put -- before the names" in found.stderr
    found = shell("granite-gguf transcribe -q -- -dash.flac", folder=tmp_path)
    assert (found.returncode, found.stdout.decode()) == (0, SPOKEN + "\n")


# Many recordings


def test_quiet_is_silent_on_success(tmp_path: Path) -> None:
    copies(tmp_path, "a.flac", "b.flac")
    found = shell("granite-gguf transcribe -q a.flac b.flac -o out", folder=tmp_path)
    assert (found.returncode, found.stdout, found.stderr) == (0, b"", b"")


def test_a_list_on_standard_input(tmp_path: Path) -> None:
    copies(tmp_path, "a.flac", "b\nc.flac")
    expected = f"a.flac\t{SPOKEN}\nb\\nc.flac\t{SPOKEN}\n"
    found = shell(
        "printf 'a.flac\\0b\\nc.flac\\0' | granite-gguf transcribe -q --batch -", folder=tmp_path
    )
    assert (found.returncode, found.stdout.decode()) == (0, expected)
    both = shell("echo a.flac | granite-gguf transcribe - --batch -", folder=tmp_path)
    assert both.returncode == 2 and b"can be read only once" in both.stderr
    none = shell("granite-gguf transcribe --batch - < /dev/null", folder=tmp_path)
    assert none.returncode == 2 and b"standard input: names no recordings" in none.stderr


def test_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    copies(tmp_path, *(f"{n}.flac" for n in range(4)))
    out = tmp_path / "out"
    out.mkdir()
    (out / "1.txt").write_text("kept")
    (out / "2.json").write_text("kept, too")
    command = "granite-gguf transcribe ?.flac -f txt -f json -o out --skip-existing"
    found = shell(command, folder=tmp_path)
    assert found.returncode == 0 and b"4 of 4 recordings transcribed" in found.stderr
    assert len(list(out.iterdir())) == 8
    assert (out / "1.txt").read_text() == "kept" and (out / "2.json").read_text() == "kept, too"
    assert json.loads((out / "1.json").read_text())["text"] == SPOKEN
    times = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    again = shell(f"{command} -m nix.gguf", folder=tmp_path)  # no model is needed for nothing
    assert (again.returncode, again.stderr) == (0, b"4 of 4 recordings are done already\n")
    assert times == {path: path.stat().st_mtime_ns for path in out.iterdir()}


def test_shards_are_all_of_it_and_none_twice(tmp_path: Path) -> None:
    copies(tmp_path, *(f"{n}.flac" for n in range(5)))
    for number in (1, 2, 3):
        found = shell(
            f"granite-gguf transcribe ?.flac -o out --output-template '{{index}}.txt' "
            f"--shard {number}/3",
            folder=tmp_path,
        )
        assert found.returncode == 0, found.stderr  # without --force: no file was there
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        f"{n}.txt" for n in range(1, 6)
    ]


@pytest.mark.parametrize("text", ["", "0/3", "4/3", "1", "1/0", "a/b", "-1/3", "1/3/5", "1.0/2"])
def test_shards_that_are_none(text: str) -> None:
    with pytest.raises(InputError, match="expected K/N"):
        parse_shard(text)


def test_failures_in_a_file(tmp_path: Path) -> None:
    copies(tmp_path, "good.flac")
    (tmp_path / "bad.flac").write_text("no audio")
    command = "granite-gguf transcribe good.flac bad.flac nix.flac -o out --failures lost.jsonl"
    found = shell(command, folder=tmp_path)
    assert found.returncode == 1
    rows = [json.loads(line) for line in (tmp_path / "lost.jsonl").read_text().splitlines()]
    assert [row["file"] for row in rows] == ["bad.flac", "nix.flac"]
    assert rows[1] == {"file": "nix.flac", "error": "nix.flac: no such file"}
    assert "failed: nix.flac: no such file" in found.stderr.decode()
    copies(tmp_path, "bad.flac", "nix.flac")
    again = shell(f"{command} --skip-existing", folder=tmp_path)
    assert again.returncode == 0 and (tmp_path / "lost.jsonl").read_text() == ""
    assert b"1 of 3 recordings are done already" in again.stderr
    (tmp_path / "lost.jsonl").write_text("something else\n")
    kept = shell(f"{command} --skip-existing", folder=tmp_path)
    assert kept.returncode == 2 and b"is no list of failures" in kept.stderr


# Usage


@pytest.mark.parametrize("command", COMMANDS)
def test_wrong_usage_of_every_command_points_to_its_help(command: str) -> None:
    found = run(command, "--nonsense")
    assert (found.returncode, found.stdout) == (2, "")
    error, hint = found.stderr.splitlines()
    assert error.startswith("error: No such option: --nonsense")
    assert hint == f"see `python -m granite_gguf {command} --help`"
