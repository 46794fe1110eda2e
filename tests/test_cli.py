"""The command line as a user meets it: a process with arguments, streams and an exit code."""

from __future__ import annotations

import inspect
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from granite_gguf import Model, __version__
from granite_gguf.cli import app
from granite_gguf.cli.console import print_error, print_note
from tests.commands import assert_refused, run

COMMANDS = (
    *("bench", "convert", "diff", "doctor", "eval", "imatrix", "inspect", "models", "quantize"),
    *("reference", "transcribe"),
)


@pytest.mark.parametrize(
    "typed, offered",
    [("granite-gguf tra", ["transcribe"]), ("granite-gguf bench --thr", ["--threads"])],
)
def test_the_shell_completes_commands_and_options(typed: str, offered: list[str]) -> None:
    completed = subprocess.run(
        [sys.executable, "-c", "import sys; from granite_gguf import cli\n"
         "sys.argv = ['granite-gguf']; cli.main()"],
        env={**os.environ, "_GRANITE_GGUF_COMPLETE": "complete_bash", "COMP_WORDS": typed,
             "COMP_CWORD": str(len(typed.split()) - 1)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert completed.stdout.split() == offered


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_a_terminal(command: str) -> None:
    shown = run(command, "--help", COLUMNS="80", NO_COLOR="1", TERM="dumb")
    lines = shown.stdout.splitlines()
    assert shown.returncode == 0 and len(lines) > 8
    assert max(map(len, lines)) <= 80
    assert not any("…" in line for line in lines), "something is cut off"


def test_version_and_help() -> None:
    assert run("--version").stdout.strip() == f"granite-gguf {__version__}"
    help_text = run("--help").stdout
    assert all(name in help_text for name in ("transcribe", "convert", "inspect", "doctor"))


def test_convert_and_transcribe(
    checkpoints: dict[str, Path], audio_file: Path, tmp_path: Path, models: dict[str, Model]
) -> None:
    path = tmp_path / "model.gguf"
    converted = run("convert", checkpoints["nle"], "-o", path, "--outtype", "f32")
    assert converted.returncode == 0 and converted.stdout == ""
    assert "layout nle as f32" in converted.stderr
    expected = models["nle"].transcribe(audio_file).text
    result = run("transcribe", "-m", path, audio_file)
    assert (result.returncode, result.stdout, result.stderr) == (0, expected + "\n", "")
    again = run("convert", checkpoints["nle"], "-o", path)
    assert_refused(again, 2, "exists already", "--force")


def test_json_lines(f32_files: dict[str, Path], audio_file: Path) -> None:
    result = run("transcribe", audio_file, "--json", GRANITE_GGUF_MODEL=str(f32_files["nle"]))
    (line,) = result.stdout.splitlines()
    fields = json.loads(line)
    assert fields["file"] == str(audio_file) and fields["duration"] == 3.0
    assert {"text", "hypothesis", "timings", "token_ids"} <= fields.keys()


def test_a_failed_file_stops_nothing_and_is_not_hidden(
    f32_files: dict[str, Path], audio_file: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.wav"
    bad.write_text("not audio")
    result = run("transcribe", "-m", f32_files["nle"], audio_file, bad, audio_file)
    assert_refused(result, 1, "bad.wav: cannot be read as audio")
    lines = result.stdout.splitlines()
    assert len(lines) == 2 and all(line.startswith(f"{audio_file}\t") for line in lines)


@pytest.mark.slow
def test_wrong_usage(f32_files: dict[str, Path], audio_file: Path, tmp_path: Path) -> None:
    model = f32_files["nle"]
    assert_refused(run("transcribe", "-m", tmp_path / "no.gguf", audio_file), 2, "no such file")
    assert_refused(run("transcribe", "-m", audio_file, audio_file), 2, "is not a GGUF file")
    assert_refused(run("transcribe", "-m", model, audio_file, "--threads", "0"), 2, "threads")
    assert_refused(run("transcribe", "-m", model, audio_file, "-d", "cuda7"), 2, "cuda7")
    assert_refused(run("transcribe", "-m", model, audio_file, "--nonsense"), 2, "nonsense")
    cache = run("diff", model, model, audio_file, "--cache", "q8")
    assert_refused(cache, 2, "Invalid value for '--cache': 'q8' is not one of 'f16', 'f32'")
    assert_refused(run("convert", tmp_path, "-o", tmp_path / "x.gguf"), 2, "config.json")
    assert_refused(run("convert", "no where", "-o", tmp_path / "x.gguf"), 2, "neither a checkpoint")
    assert_refused(run("convert", "some/repo", "-o", tmp_path / "x.gguf"), 2, "some/repo", "Hub")
    assert_refused(run("inspect", tmp_path), 2, "is a directory")
    assert not list(tmp_path.iterdir())


def test_inspect(f32_files: dict[str, Path]) -> None:
    result = run("inspect", f32_files["native"])
    assert result.returncode == 0
    for part in ("granite_nle.source.layout", "native", "captured_layers", "(1, 2, 3, -1)"):
        assert part in result.stdout
    fields = json.loads(run("inspect", f32_files["native"], "--json").stdout)
    assert fields["hparams"]["encoder"]["n_layers"] == 4
    assert sum(row["bytes"] for row in fields["sizes"]) > 3e6
    assert {"name", "shape", "type"} == fields["tensors"][0].keys()


def test_doctor() -> None:
    result = run("doctor")
    assert result.returncode == 0
    for part in ("ggml-python", "CPU kernels:", "devices:", "threads by default"):
        assert part in result.stdout
    report = json.loads(run("doctor", "--json").stdout)
    assert report["versions"]["ggml-python"] == "0.0.45"
    assert report["devices"][-1]["kind"] == "cpu"
    for name in report["kernels"]["available"]:
        assert f"  {name} " in result.stdout
    assert report["kernels"]["facts"] in " ".join(result.stdout.split())


def test_what_doctor_knows_of_a_processor() -> None:
    """It praises no processor whose kernels were not measured."""
    from granite_gguf.cli.doctor import processor_facts

    assert "bfloat16 tiles" in processor_facts(["amx-bf16", "avx512-vnni", "generic"])
    assert "then BF16" in processor_facts(["avx512-vnni", "avx512-bf16", "avx2-int8", "generic"])
    assert "none of bfloat16" in processor_facts(["avx2-int8", "avx2-fma", "generic"])
    assert "not measured" in processor_facts(["neon-dotprod", "neon-fma", "generic"])
    assert "not measured" in processor_facts(["generic"])
    assert "not measured" in processor_facts([])


def test_advice_for_a_slow_build(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of ggml's kernels, only where they multiply."""
    from granite_gguf.cli import doctor
    from granite_gguf.cli.doctor import advice
    from granite_gguf.ggml.build import BuildInfo

    slow = BuildInfo("0.0.45", "0.15.3", {"CPU": {"SSE3": "1", "OPENMP": "1"}}, [])
    monkeypatch.setattr(doctor, "unused_cpu_features", lambda build: ["AVX2"])
    monkeypatch.setattr(doctor, "used_types", lambda: {"avx2-fma": ["F32"]})
    assert not any("another processor" in text for text, _ in advice(slow))
    monkeypatch.setattr(doctor, "used_types", dict)
    problems = dict(advice(slow))
    (other,) = (text for text in problems if "another processor" in text)
    assert problems[other] == (
        'CMAKE_ARGS="-DGGML_NATIVE=ON" pip install --force-reinstall --no-deps --no-cache-dir '
        "--no-binary ggml-python ggml-python==0.0.45"
    )


@pytest.mark.alone
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_conversion_leaves_nothing(
    checkpoints: dict[str, Path], tmp_path: Path, number: signal.Signals
) -> None:
    """A signal in the middle of writing: no traceback, no file, the exit code of the signal."""
    script = (
        "import sys, time; from granite_gguf import cli; from granite_gguf.storage import writer\n"
        "w = writer._pad\n"
        "def slow(*a): print('writing', flush=True); time.sleep(0.05); w(*a)\n"
        "writer._pad = slow; sys.argv[0] = 'granite-gguf'; cli.main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, "convert", checkpoints["nle"], "-o", tmp_path / "m.gguf"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    time.sleep(0.2)
    assert [path.suffix for path in tmp_path.iterdir()] == [".part"]
    process.send_signal(number)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 128 + number, stderr
    assert "Traceback" not in stderr
    assert not list(tmp_path.iterdir())


def test_a_closed_pipe_is_no_error(f32_files: dict[str, Path]) -> None:
    command = f"{sys.executable} -m granite_gguf inspect {f32_files['nle']} --json | head -1"
    result = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, timeout=60, check=False
    )
    assert result.stdout == "{\n" and "Traceback" not in result.stderr


def test_descriptions_are_not_wrapped_twice() -> None:
    """Rich keeps the line breaks of a docstring, so longer lines would break again."""
    for command in app.registered_commands:
        lines = (inspect.getdoc(command.callback) or "").splitlines()
        assert lines and max(map(len, lines)) <= 78, command.name


def test_names_with_colons_are_told_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    """Not as the pictures that rich has for such names."""
    print_error("model:x: no such file")
    print_note(":smile: is transcribed")
    assert capsys.readouterr().err.splitlines() == [
        "error: model:x: no such file",
        ":smile: is transcribed",
    ]
