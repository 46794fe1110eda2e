"""Whole processes: `granite-gguf transcribe` beside the command lines of other engines.

python -m benchmarks.against_engines AUDIO MODEL.gguf... --other 'NAME=COMMAND {audio}'...
    [--repeats 5]

All take turns, each run a process of its own, so that loading counts; every one is run once before.
A command is split as a shell would do it, and `{audio}` in it is the recording. Prints Markdown:
seconds on the clock (median and least), processor seconds, peak resident memory, and the first
words of what was printed, to see that the same was done.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median


@dataclass(frozen=True)
class Run:
    seconds: float
    processor: float
    peak: int
    text: str


def run(command: list[str]) -> Run:
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.DEVNULL)
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{shlex.join(command)} failed with exit code {process.returncode}")
        output.seek(0)
        words = output.read().split()
    unit = 1 if sys.platform == "darwin" else 1024
    processor = used.ru_utime + used.ru_stime
    return Run(seconds, processor, used.ru_maxrss * unit, " ".join(words[:6]))


def commands(args: argparse.Namespace) -> dict[str, list[str]]:
    ours = [sys.executable, "-m", "granite_gguf", "transcribe", "-q"]
    found = {f"granite-gguf, {m.stem}": [*ours, "-m", str(m), str(args.audio)] for m in args.models}
    for text in args.other:
        name, given, command = text.partition("=")
        if not given or "{audio}" not in command:
            raise SystemExit(f"--other is {text!r}, expected 'NAME=COMMAND with {{audio}} in it'")
        found[name] = [part.replace("{audio}", str(args.audio)) for part in shlex.split(command)]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("audio", type=Path)
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--other", action="append", default=[], metavar="NAME=COMMAND")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    wanted = commands(args)
    runs: dict[str, list[Run]] = {name: [] for name in wanted}
    for repeat in range(args.repeats + 1):
        for name, command in wanted.items():
            done = run(command)
            if repeat:  # the first brings the files into memory
                runs[name].append(done)
    print("| | seconds | least | processor s | peak GB | text |\n|---|---:|---:|---:|---:|---|")
    for name, done_runs in runs.items():
        seconds = [one.seconds for one in done_runs]
        processor = median(one.processor for one in done_runs)
        peak = max(one.peak for one in done_runs) / 1e9
        print(f"| {name} | {median(seconds):.2f} | {min(seconds):.2f} | {processor:.2f} "
              f"| {peak:.2f} | {done_runs[-1].text} |")  # fmt: skip


if __name__ == "__main__":
    main()
