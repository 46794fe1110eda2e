"""Transcribe one recording over and over: memory, and whether every text is the same.

python benchmarks/long_life.py --count 2000 --loads 200
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

import granite_gguf
from granite_gguf.demo import DEMO_MODEL, DEMO_SAMPLES
from granite_gguf.nar import decoding

PROCESSES = 4
CALLERS = 8
_ONE = (
    "import sys, granite_gguf\n"
    "with granite_gguf.load(sys.argv[1], threads=1, device='cpu') as m:\n"
    "    print(m.transcribe(sys.argv[2]).text)"
)


def in_use_kb() -> int:
    """Memory that this process alone has filled and not given back, in kB; mapped files excluded.

    What the C library holds for later is given back first: it comes and goes by tens of megabytes
    with the threads that have run.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's own
    if trim is not None:
        trim(0)
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Anonymous:"))


def slope(values: list[int]) -> float:
    """The least-squares slope of the second half, in kB a step: the first fills caches."""
    late = values[len(values) // 2 :]
    return float(np.polyfit(np.arange(len(late)), late, 1)[0])


def repeat(model: granite_gguf.Model, sample: Path, count: int) -> tuple[set[str], float]:
    """Texts of ``count`` transcriptions, and how much memory each one adds, in kB."""
    texts, memory = set(), []
    gc.freeze()  # what a process has loaded before is not looked through each time
    step = max(1, count // 100)  # giving memory back moves what is measured
    for number in range(count):
        texts.add(model.transcribe(sample).text)
        if number % step == 0:
            gc.collect()
            memory.append(in_use_kb())
    gc.unfreeze()
    return texts, slope(memory) / step


def callers(model: granite_gguf.Model, sample: Path, count: int) -> set[str]:
    """Texts of ``count`` calls from several threads on one model."""
    with ThreadPoolExecutor(CALLERS) as pool:
        return set(pool.map(lambda _: model.transcribe(sample).text, range(count)))


def processes(path: Path, sample: Path) -> set[str]:
    """Texts of several processes on one file."""
    command = [sys.executable, "-c", _ONE, str(path), str(sample)]
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(PROCESSES)
    ]
    return {process.communicate()[0].strip() for process in running}


def reload(path: Path, count: int) -> float:
    """How much memory each load and close adds, in kB."""
    memory = []
    gc.freeze()
    for _ in range(count):
        granite_gguf.load(path, threads=2, device="cpu").close()
        gc.collect()
        memory.append(in_use_kb())
    gc.unfreeze()
    return slope(memory)


def bits(path: Path, sample: Path, threads: int) -> tuple[bytes, bytes]:
    """The logits' bits and the ids of the editor."""
    with granite_gguf.load(path, threads=threads, device="cpu") as model:
        encoded = model.run_encoder(model.compute_mel(model.load_audio(sample)))
        tokens = model.run_hypothesis(encoded.final, encoded.blank)
        slots = decoding.insert_slots(model.hparams.editor, tokens)
        taps = frozenset({"editing_logits"})
        out = model.run_editor(model.run_projector(encoded.captured), slots, taps)
        return out.taps["editing_logits"].tobytes(), out.ids.tobytes()


def main() -> int:
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    parser = argparse.ArgumentParser(description="Transcribe one recording over and over.")
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--loads", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    path, sample = DEMO_MODEL, DEMO_SAMPLES[0]
    started = time.monotonic()
    with granite_gguf.load(path, threads=options.threads, device="cpu") as model:
        texts, growth = repeat(model, sample, options.count)
        threaded = callers(model, sample, 8 * CALLERS)
    print(f"{options.count} transcriptions in {time.monotonic() - started:.0f} s: {texts}")
    print(f"memory of each after the first half: {growth:+.3f} kB")
    print(f"{CALLERS} threads: {'equal' if threaded == texts else threaded}")
    separate = processes(path, sample)
    same = separate == {text.strip() for text in texts}
    print(f"{PROCESSES} processes: {'equal' if same else separate}")
    print(f"{options.loads} loads: {reload(path, options.loads):+.3f} kB each after the first half")
    runs = [bits(path, sample, threads) for threads in (1, 1, 2, 2, 3)]
    print(
        f"logits bit-identical at 1 thread {runs[0][0] == runs[1][0]}, at 2 threads "
        f"{runs[2][0] == runs[3][0]}; ids across 1, 2, 3 threads {len({r[1] for r in runs}) == 1}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
