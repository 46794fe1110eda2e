"""Live speech on the command line: through standard input, and from a microphone."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys

import pytest
import soundfile

from granite_gguf.demo import DEMO_SAMPLES
from tests.commands import assert_refused, run

RATE = 16_000
TEXTS = [path.with_suffix(".txt").read_text().strip() for path in DEMO_SAMPLES]
LIVE = [sys.executable, "-m", "granite_gguf", "transcribe", "--live", "-q", "-"]


def samples(number: int) -> bytes:
    return bytes(soundfile.read(DEMO_SAMPLES[number], dtype="int16")[0].tobytes())


@pytest.mark.slow
def test_standard_input() -> None:
    """The first text comes at the pause, while the input goes on; no terminal, no interim text."""
    quiet = bytes(2 * RATE)
    with subprocess.Popen(LIVE, stdin=-1, stdout=-1, stderr=-1) as process:
        assert process.stdin and process.stdout and process.stderr
        process.stdin.write(samples(1) + quiet)
        process.stdin.flush()
        assert process.stdout.readline().decode().strip() == TEXTS[1]
        process.stdin.write(samples(0))
        process.stdin.close()
        assert len(set(process.stdout.read().decode().split()) & set(TEXTS[0].split())) >= 4
        assert process.stderr.read() == b""
    assert process.returncode == 0


@pytest.mark.slow
def test_a_terminal_shows_what_is_heard() -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen(LIVE, stdin=-1, stdout=-1, stderr=theirs) as process:
        os.close(theirs)
        assert process.stdin and process.stdout
        process.stdin.write(samples(1))
        process.stdin.flush()
        shown = b""
        while not re.search(rb"\r\x1b\[Kwe have .*thirty first", shown):
            assert select.select([ours], [], [], 30)[0], shown
            shown += os.read(ours, 1 << 10)
        process.stdin.write(bytes(2 * RATE))
        process.stdin.close()
        assert process.stdout.read().decode().strip() == TEXTS[1]
    os.close(ours)


FAKE = """
import os, signal, sys, threading, time, types
import soundfile
from granite_gguf.demo import DEMO_SAMPLES
data = soundfile.read(DEMO_SAMPLES[1], dtype="int16")[0].tobytes()

class Stream:
    def __init__(self, *, samplerate, device, channels, dtype, callback):
        assert (samplerate, channels, dtype) == (16000, 1, "int16")
        self.callback, self.over = callback, threading.Event()
    def __enter__(self):
        def work():
            for at in range(0, len(data), 3200):
                if not self.over.is_set():
                    self.callback(data[at:at + 3200], 1600, None, None)
            time.sleep(0.5)
            os.kill(os.getpid(), signal.SIGINT)
        threading.Thread(target=work, daemon=True).start()
        return self
    def abort(self):
        self.over.set()
    def __exit__(self, *_):
        pass

def check(device, **_):
    if device == 99:
        raise ValueError("No input device matching 99")

sys.modules["sounddevice"] = types.SimpleNamespace(
    RawInputStream=Stream, check_input_settings=check, PortAudioError=OSError,
    query_devices=lambda: [{"name": "out", "max_input_channels": 0},
                           {"name": "in", "max_input_channels": 1}])
from granite_gguf.cli import main
main()
"""


def listen(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", FAKE, "listen", *arguments],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


@pytest.mark.slow
def test_listen() -> None:
    """A microphone that is none: what it heard before Ctrl+C is written down."""
    heard = listen()
    assert (heard.returncode, heard.stdout.strip()) == (0, TEXTS[1]), heard.stderr
    assert listen("--microphones").stdout == "1\tin\n"
    assert_refused(listen("--microphone", "99"), 2, "No input device matching 99", "--microphones")


@pytest.mark.slow
def test_what_is_not_live() -> None:
    for arguments, says in [
        (("speech.wav",), "from standard input"),
        (("-", "-f", "json"), "prints text"),
        (("-", "--raw-rate", "8000", "--raw-format", "f32le"), "as s16le"),
    ]:
        assert_refused(run("transcribe", "--live", *arguments), 2, says)
