"""`granite-gguf transcribe` as a process: inputs, outputs, failures and interruptions."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from granite_gguf import Model
from granite_gguf.cli.inputs import find_recordings
from granite_gguf.cli.outputs import Existing, plan_targets
from granite_gguf.errors import InputError, OutputError
from granite_gguf.formats import FORMATS
from tests.commands import assert_refused, run
from tests.signals import synthetic_audio

RATE = 16_000


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Recordings in a folder that is the current one."""
    (tmp_path / "talks" / "old").mkdir(parents=True)
    for seed, name in enumerate(["talks/a.wav", "talks/b.FLAC", "talks/old/a.ogg", "one.wav"]):
        soundfile.write(tmp_path / name, synthetic_audio(2 * RATE, seed=seed), RATE,
                        format=name[-3:].upper().replace("LAC", "FLAC"))  # fmt: skip
    (tmp_path / "talks" / "notes.txt").write_text("no audio")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def model(f32_files: dict[str, Path]) -> Path:
    return f32_files["granite_speech_nar"]


def names(*arguments: str, batch: Path | None = None) -> list[str]:
    return [recording.name for recording in find_recordings(arguments, batch)]


def test_files_folders_patterns_and_lists(folder: Path) -> None:
    talks = ["talks/a.wav", "talks/b.FLAC", "talks/old/a.ogg"]
    assert names("talks", "one.wav") == [*talks, "one.wav"]
    assert names("*.wav", "talks/**/a.*") == ["one.wav", "talks/a.wav", "talks/old/a.ogg"]
    batch = folder / "list.txt"
    batch.write_text("one.wav\n\ntalks\nmissing [1].wav\n", encoding="utf-8")
    assert names(batch=batch) == ["one.wav", *talks, "missing [1].wav"]
    (folder / "take [1].wav").touch()
    assert names("take [1].wav") == ["take [1].wav"]  # a file is not a pattern


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "nothing to transcribe"),
        (("*.mp3",), r"\*\.mp3: no file matches"),
        (("empty",), "empty: the folder has no recordings"),
        (("-", "-"), "read only once"),
    ],
)
def test_arguments_that_name_nothing(folder: Path, arguments: tuple[str, ...], says: str) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(InputError, match=says):
        names(*arguments)


def test_unusable_lists(folder: Path) -> None:
    for content, says in ((b"\n", "names no recordings"), (b"\xff\xfe", "not UTF-8")):
        (folder / "list").write_bytes(content)
        with pytest.raises(InputError, match=says):
            names(batch=folder / "list")
    with pytest.raises(InputError, match="cannot be read"):
        names(batch=folder / "nix")


def plan(*arguments: str, template: str, force: bool = False) -> list[str]:
    recordings = find_recordings(arguments, None)
    existing = Existing.REPLACE if force else Existing.REFUSE
    targets = plan_targets(recordings, ["srt", "txt"], Path("out"), template, existing=existing)
    for place in range(len(recordings)):
        targets.check(place)
    return [path.relative_to("out").as_posix() for made in targets.paths for path in made.values()]


def test_names_of_output_files(folder: Path) -> None:
    assert plan("one.wav", template="{stem}.{format}") == ["one.srt", "one.txt"]
    assert plan("-", template="{stem}.{format}") == ["stdin.srt", "stdin.txt"]
    assert plan("talks", template="{parent}/{index:02d}-{name}.{format}")[::2] == [
        "talks/01-a.wav.srt", "talks/02-b.FLAC.srt", "old/03-a.ogg.srt"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{stem}.{format}", r"both talks/a\.wav and talks/old/a\.ogg"),
        ("{index}", "both talks/a.wav and talks/a.wav"),
        ("../{stem}-{index}.{format}", "outside of out"),
        ("/tmp/{stem}-{index}.{format}", "outside of out"),
        ("link/{index}.{format}", "outside of out"),
        ("{stem", "expected '}'"),
        ("{title}", r"\{title\} is none of its fields"),
        ("{stem.__class__}", "none of its fields"),
        ("{index:q}", "--output-template"),
    ],
)
def test_bad_names_are_found_before_the_work(folder: Path, template: str, says: str) -> None:
    (folder / "out").mkdir()
    (folder / "out" / "link").symlink_to(folder)
    with pytest.raises(InputError, match=says):
        plan("talks", template=template)


def test_nothing_is_overwritten(folder: Path) -> None:
    (folder / "out").mkdir()
    (folder / "out" / "one.txt").touch()
    with pytest.raises(OutputError, match=r"one\.txt: exists already; use --force"):
        plan("one.wav", template="{stem}.{format}")
    assert plan("one.wav", template="{stem}.{format}", force=True)
    (folder / "out" / "x.txt").touch()
    with pytest.raises(InputError, match=r"would overwrite the recording out/x\.txt"):
        plan("out/x.txt", template="{stem}.{format}", force=True)


def test_all_formats_at_once(folder: Path, model: Path, models: dict[str, Model]) -> None:
    wanted = [part for name in FORMATS for part in ("-f", name)]
    result = run("transcribe", "-m", model, "talks", "one.wav", "-o", "out/deep",
                 *wanted, "--output-template", "{parent}-{stem}.{format}")  # fmt: skip
    assert (result.returncode, result.stdout) == (0, "")
    assert "4 of 4 recordings transcribed: 8.0 s of audio" in result.stderr
    made = {path.name for path in (folder / "out" / "deep").iterdir()}
    assert len(made) == 32 and {"old-a.srt", "talks-a.vtt", "talks-b.jsonl"} <= made
    values = json.loads((folder / "out/deep/old-a.json").read_text(encoding="utf-8"))
    expected = models["granite_speech_nar"].transcribe("talks/old/a.ogg").text
    assert values["text"] == expected and values["segments"][0]["words"]
    again = run("transcribe", "-m", model, "talks/b.FLAC", "-o", "out/deep",
                "--output-template", "talks-{stem}.{format}")  # fmt: skip
    assert_refused(again, 2, "talks-b.txt: exists already", "--force")


def test_stdin(folder: Path, model: Path, models: dict[str, Model]) -> None:
    expected = models["granite_speech_nar"].transcribe("one.wav").text
    command = f"cat one.wav | {sys.executable} -m granite_gguf transcribe -q -m {model} -"
    piped = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (piped.returncode, piped.stdout, piped.stderr) == (0, expected + "\n", "")
    empty = subprocess.run(
        [sys.executable, "-m", "granite_gguf", "transcribe", "-m", model, "-"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert_refused(empty, 1, "stdin", "it is empty")


def test_long_audio_is_a_line_for_each_piece(folder: Path, model: Path) -> None:
    samples = np.concatenate([synthetic_audio(4 * RATE, seed=1), np.zeros(RATE, np.float32)] * 3)
    soundfile.write("long.wav", samples, RATE)
    result = run("transcribe", "-m", model, "long.wav", "--chunk-seconds", "6", "-v")
    assert result.returncode == 0 and len(result.stdout.splitlines()) == 3
    assert "15.0 s of audio in 3 passes" in result.stderr
    rows = run("transcribe", "-m", model, "long.wav", "--chunk-seconds", "6", "-f", "tsv")
    times = [int(row.split("\t")[0]) for row in rows.stdout.splitlines()[1:]]
    assert times == sorted(times) and times[-1] > 10_000


def test_failures_are_named_at_the_end(folder: Path, model: Path) -> None:
    (folder / "bad.wav").write_text("no audio")
    result = run("transcribe", "-m", model, "missing.wav", "one.wav", "bad.wav", "-o", "out")
    assert_refused(result, 1, "1 of 3 recordings", "failed: missing.wav", "failed: bad.wav")
    assert [path.name for path in (folder / "out").iterdir()] == ["one.txt"]
    quiet = run("transcribe", "-q", "-m", model, "missing.wav", "one.wav")
    assert quiet.returncode == 1
    assert quiet.stderr.splitlines() == ["error: missing.wav: no such file"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["-f", "srt"], "needs an --output-dir"),
        (["-f", "txt", "-f", "jsonl"], "several formats need an --output-dir"),
        (["--json", "-f", "txt"], "--json"),
        (["--force"], "--force"),
        (["--output-template", "{stem}"], "--output-template"),
        (["-q", "-v"], "contradict"),
        (["--word-times"], "--word-times needs a format"),
        (["--max-lines", "3"], "belong to subtitles"),
        (["-f", "tsv", "-o", "new", "--output-template", "{index}.{format}",
          "--max-line-width", "7"], "expected 8 or more"),
        (["--chunk-seconds", "2"], "5 to 408 s"),
        (["--channel", "0"], "channel"),
        (["-f", "docx"], "docx"),
        (["--language", "ja"], "language is 'ja', expected one of"),
    ],
)  # fmt: skip
def test_wrong_usage(folder: Path, model: Path, options: list[str], says: str) -> None:
    assert_refused(run("transcribe", "-m", model, "one.wav", "talks", *options), 2, says)


def test_progress_is_shown_on_a_terminal_and_results_elsewhere(folder: Path, model: Path) -> None:
    def on_terminal(*options: str) -> tuple[str, str]:
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-m", "granite_gguf", "transcribe", "-m", model, "one.wav", *options],
            stdout=subprocess.PIPE, stderr=theirs, text=True,
            env={**os.environ, "TERM": "xterm-256color"},
        )  # fmt: skip
        os.close(theirs)
        shown: list[bytes] = []

        def watch() -> None:
            while True:
                try:
                    shown.append(os.read(ours, 4096))
                except OSError:  # the other side is closed
                    return

        watcher = threading.Thread(target=watch)
        watcher.start()
        stdout, _ = process.communicate(timeout=60)
        watcher.join()
        os.close(ours)
        return stdout, b"".join(shown).decode()

    stdout, shown = on_terminal()
    assert stdout == run("transcribe", "-m", model, "one.wav").stdout
    assert "one.wav" in shown and "\x1b[" in shown
    assert on_terminal("-q") == (stdout, "")


@pytest.mark.alone
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interruption_ends_at_once_and_keeps_what_is_finished(
    folder: Path, model: Path, number: signal.Signals
) -> None:
    """Interrupted inside a computation that takes minutes and hears no signal."""
    for number_of in range(9):  # more than go through one pass
        shutil.copy("talks/a.wav", f"talks/c{number_of}.wav")
    script = (
        "import hashlib, sys; from granite_gguf import cli; from granite_gguf.nar import stages\n"
        "run, calls = stages.Stages.run_encoder, []\n"
        "def slow(*a, **k):\n"
        "    calls.append(1)\n"
        "    if len(calls) == 2:\n"
        "        print('busy', flush=True); hashlib.pbkdf2_hmac('sha256', b'', b'', 2 * 10**8)\n"
        "    return run(*a, **k)\n"
        "stages.Stages.run_encoder = slow; sys.argv[0] = 'granite-gguf'; cli.main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, "transcribe", "-m", model, "talks", "-o", "out",
         "--output-template", "{index}.{format}", "-t", "1"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "busy\n"
    deadline = time.monotonic() + 20
    while not (folder / "out" / "1.txt").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 128 + number and "Traceback" not in stderr
    names = {path.name for path in (folder / "out").iterdir()}
    assert "1.txt" in names and names < {f"{index}.txt" for index in range(1, 13)}


def test_help_fits_a_terminal() -> None:
    result = run("transcribe", "--help", COLUMNS="80", NO_COLOR="1", TERM="dumb")
    assert result.returncode == 0
    assert all(len(line) <= 80 for line in result.stdout.splitlines())
    text = " ".join(result.stdout.replace("│", " ").split())
    *others, last = list(FORMATS)[1:]
    assert f"{', '.join(others)} or {last}" in text
