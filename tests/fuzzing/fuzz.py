"""Open, load and run damaged GGUF files, in child processes that may die without harm.

python tests/fuzzing/fuzz.py --first 0 --count 10000 --processes 2
python tests/fuzzing/fuzz.py --what reference --count 10000

Models are loaded and run; a model is judged by reference files, and quantized with importance
matrices.

Each case ends in one of three ways: an error of the package's own, a transcript, or a fault. Faults
are any other exception, a dead process, more memory than the limit, and more time than the
deadline. Each fault's seed is printed; ``--first SEED --count 1 --keep FILE`` writes its file.
"""

from __future__ import annotations

import argparse
import os
import resource
import select
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from granite_gguf.architectures import DIALECTS
from tests.fuzzing.fuzz_targets import TARGETS, Target, sound_model
from tests.support.gguf_mutator import Sound, mutate, take_apart

MEMORY = 1 << 30  # address space above what the parent has


def _address_space() -> int:
    with Path("/proc/self/statm").open() as file:
        return int(file.read().split()[0]) * resource.getpagesize()


@dataclass(frozen=True)
class Job:
    """What all workers work on: the kind of file, an undamaged one, the model beside it."""

    target: Target
    sound: Sound
    model: Path


def _child(job: Job, seeds: range, path: Path, pipe: int) -> None:
    limit = _address_space() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with ExitStack() as stack:
        attempt = job.target.attempt(stack, job.model)
        for seed in seeds:
            raw, _what = mutate(job.sound, seed)
            path.unlink(missing_ok=True)  # an earlier map stays whole
            path.write_bytes(raw)
            os.write(pipe, f"start {seed}\n".encode())
            try:
                outcome = attempt(path)
            except BaseException:  # a fault of any kind is what is looked for
                last = traceback.format_exc().strip().splitlines()
                outcome = "fault: " + " | ".join(line.strip()[:150] for line in last[-5:])
            os.write(pipe, f"{outcome}\n".encode())


class Worker:
    """A child process that works on a range of seeds."""

    def __init__(self, job: Job, seeds: range, path: Path) -> None:
        self.job, self.seeds, self.path = job, seeds, path
        self.at, self.started = seeds.start, time.monotonic()
        self.running = False
        self.buffer = b""
        self.start()

    def start(self) -> None:
        self.read_end, write_end = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                os.close(self.read_end)
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, 1)
                os.dup2(null, 2)
                os.environ["GGML_NO_BACKTRACE"] = "1"
                _child(self.job, range(self.at, self.seeds.stop), self.path, write_end)
                status = 0
            finally:
                os._exit(status)
        os.close(write_end)
        self.started = time.monotonic()

    def lines(self) -> list[str] | None:
        """What the child has said since; None at its end."""
        data = os.read(self.read_end, 65536)
        if not data:
            return None
        *whole, self.buffer = (self.buffer + data).split(b"\n")
        return [line.decode(errors="replace") for line in whole]

    def end(self) -> int:
        os.close(self.read_end)
        self.buffer = b""
        return os.waitpid(self.pid, 0)[1]


class Fuzz:
    """Counts outcomes and faults over workers."""

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.outcomes: Counter[str] = Counter()
        self.faults: list[tuple[int, str]] = []
        self.slowest = 0.0

    def note(self, worker: Worker, outcome: str) -> None:
        took = time.monotonic() - worker.started
        self.slowest = max(self.slowest, took)
        kind = outcome.partition(":")[0]
        self.outcomes[kind] += 1
        if kind == "fault":
            self.faults.append((worker.at, outcome))
        elif took > self.deadline:
            self.faults.append((worker.at, f"{outcome} after the deadline, {took:.2f} s"))
        worker.running = False
        worker.at += 1

    def step(self, worker: Worker) -> bool:
        """Hear a worker; whether it goes on."""
        said = worker.lines()
        if said is not None:
            for line in said:
                if line.startswith("start "):
                    worker.running, worker.started = True, time.monotonic()
                else:
                    self.note(worker, line)
            return True
        status = worker.end()
        if worker.at >= worker.seeds.stop:
            return False
        self.note(worker, f"fault: the process died, status {status}")
        if worker.at >= worker.seeds.stop:
            return False
        worker.start()
        return True

    def run(self, workers: list[Worker]) -> None:
        while workers:
            ready, _, _ = select.select([w.read_end for w in workers], [], [], 0.1)
            for worker in list(workers):
                if worker.read_end in ready:
                    if not self.step(worker):
                        workers.remove(worker)
                elif worker.running and time.monotonic() - worker.started > self.deadline:
                    os.kill(worker.pid, signal.SIGKILL)  # heard of as a dead process
                    worker.running = False


def main() -> int:
    parser = argparse.ArgumentParser(description="Run damaged GGUF files.")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--count", type=int, default=1000, help="how many files")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--what", choices=TARGETS, default="model")
    parser.add_argument("--layout", default="nle", help="of the checkpoint")
    parser.add_argument("--dialect", default="granite_nle", choices=DIALECTS, help="of the file")
    parser.add_argument("--deadline", type=float, default=5.0, help="seconds for one file")
    parser.add_argument("--keep", type=Path, help="write the first file here and run it in place")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as name:
        directory = Path(name)
        model, target = (
            sound_model(directory, options.layout, options.dialect),
            TARGETS[options.what],
        )
        sound = take_apart(target.sound(model))
        job = Job(target, sound, model)
        if options.keep:
            raw, what = mutate(sound, options.first)
            options.keep.write_bytes(raw)
            print(ascii(what))
            with ExitStack() as stack:
                print(target.attempt(stack, model)(options.keep))
            return 0
        started, fuzz = time.monotonic(), Fuzz(options.deadline)
        step = -(-options.count // options.processes)
        end = options.first + options.count
        fuzz.run(
            [
                Worker(job, range(start, min(start + step, end)), directory / f"{start}.damaged")
                for start in range(options.first, end, step)
            ]
        )
    seconds = time.monotonic() - started
    print(f"{sum(fuzz.outcomes.values())} files in {seconds:.0f} s: {dict(fuzz.outcomes)}")
    print(f"slowest {fuzz.slowest:.2f} s")
    for seed, fault in fuzz.faults:
        print(seed, ascii(mutate(sound, seed)[1]), "->", fault)
    return 1 if fuzz.faults else 0


if __name__ == "__main__":
    sys.exit(main())
