"""Engines side by side, in processes that run once for each line that they are sent.

python -m benchmarks.in_turns 'NAME=COMMAND'... [--repeats 3]

COMMANDs are of `benchmarks/peers.py`, with whichever Python has the engine. Each starts, loads its
model and runs once before the next one does; then all take turns. Prints Markdown: seconds from the
start to the first answer, seconds on the clock of the later ones (median, and least), processor
seconds of all threads, also of those that wait actively, peak resident memory, and tokens said.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Run:
    seconds: float
    processor: float
    peak: float
    tokens: float


class Engine:
    """A process that answers each line with a run."""

    def __init__(self, name: str, command: str, stack: ExitStack) -> None:
        self._name = name
        self._process = stack.enter_context(
            subprocess.Popen(
                shlex.split(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        )
        stack.callback(self._process.terminate)

    def run(self) -> Run:
        assert self._process.stdin and self._process.stdout
        print(file=self._process.stdin, flush=True)
        try:
            return Run(*map(float, self._process.stdout.readline().split()))
        except (TypeError, ValueError):
            raise SystemExit(
                f"{self._name} gave up: {shlex.join(map(str, self._process.args))}"
            ) from None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("engines", nargs="+", metavar="NAME=COMMAND")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    engines: dict[str, Engine] = {}
    first: dict[str, float] = {}
    runs: dict[str, list[Run]] = {}
    with ExitStack() as stack:
        for text in args.engines:
            name, _, command = text.partition("=")
            started = time.perf_counter()
            engines[name] = Engine(name, command, stack)
            engines[name].run()
            first[name], runs[name] = time.perf_counter() - started, []
            print(f"{name}: first answer after {first[name]:.1f} s", file=sys.stderr)
        for _ in range(args.repeats):
            for name, engine in engines.items():
                runs[name].append(engine.run())
    print("| | first | seconds | least | processor s | peak MB | tokens |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name, done in runs.items():
        seconds = [run.seconds for run in done]
        busy = median(run.processor for run in done)
        print(f"| {name} | {first[name]:.1f} | {median(seconds):.2f} | {min(seconds):.2f} "
              f"| {busy:.2f} | {done[-1].peak / 1e6:.0f} | {done[-1].tokens:.0f} |")  # fmt: skip


if __name__ == "__main__":
    main()
