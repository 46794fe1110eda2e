"""Live speech: how soon there is text, what it costs, and whether memory grows.

python -m benchmarks.live latency [--model FILE] [--turns 4]    fed in real time
python -m benchmarks.live memory [--minutes 60] [--real-time]   fed as fast as it is taken up

A turn is a sample of the package and a pause. A word's text is there with the first interim text
that has as many words; it is final when its segment is finished.
"""

from __future__ import annotations

import argparse
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import numpy as np

import granite_gguf
from granite_gguf import Model
from granite_gguf.demo import DEMO_MODEL, DEMO_SAMPLES
from granite_gguf.live import Interim, Live
from granite_gguf.sound.reading import read_audio
from granite_gguf.transcription.options import TranscribeOptions

RATE = 16_000
PAUSE = 1.5
BLOCK = 1600
EVERY = 0.4  # seconds between interim texts, as in a session


def turns(count: int) -> list[tuple[np.ndarray, Path]]:
    """Samples of 16 bits of a turn, and the recording it is made of."""
    pause = np.zeros(int(PAUSE * RATE), np.int16)
    found = []
    for n in range(count):
        path = DEMO_SAMPLES[n % len(DEMO_SAMPLES)]
        speech = (read_audio(path, RATE) * 32767).astype(np.int16)
        found.append((np.concatenate([speech, pause]), path))
    return found


def blocks(data: np.ndarray) -> Iterator[bytes]:
    for at in range(0, len(data), BLOCK):
        yield data[at : at + BLOCK].tobytes()


def latency(model: Model, count: int) -> None:
    given = turns(count)
    options: TranscribeOptions = {"word_times": True}
    timed = {path: model.transcribe(path, word_times=True).words for _, path in given}
    live = Live(model, RATE, options=options)
    heard: list[tuple[float, Interim]] = []
    finals: list[float] = []
    over = threading.Event()
    started, cpu = time.perf_counter(), time.process_time()

    def listen() -> None:
        spent = 0.0
        while not over.wait(max(EVERY, spent)):
            began = time.perf_counter()
            interim = live.interim()
            spent = time.perf_counter() - began
            if interim is not None and interim.finals == len(live.job.finished):
                heard.append((time.perf_counter() - started, interim))

    def follow() -> None:
        for segment in live.job.segments():
            if segment.words:
                finals.append(time.perf_counter() - started - segment.words[-1].end)

    threads = [threading.Thread(target=listen), threading.Thread(target=follow)]
    for thread in threads:
        thread.start()
    words, at = [], 0.0
    for data, path in given:
        words += [(at, n + 1, at + word.end) for n, word in enumerate(timed[path])]
        for block in blocks(data):
            at += len(block) / 2 / RATE
            time.sleep(max(0.0, started + at - time.perf_counter()))
            live.write(block)
    live.end()
    threads[1].join()
    over.set()
    threads[0].join()
    share = (time.process_time() - cpu) / (time.perf_counter() - started)
    waits = []
    for begin, number, end in words:
        there = [t for t, i in heard if i.end > begin + 0.3 and t > end
                 and i.start <= begin + 0.5 and len(i.text.split()) >= number]  # fmt: skip
        waits += [there[0] - end] if there else []
    print(f"{len(waits)} of {len(words)} words had an interim text, {median(waits):.2f} s (median) "
          f"and {max(waits):.2f} s (most) after their end")  # fmt: skip
    print(f"{len(finals)} final texts, {median(finals):.2f} s (median) and {max(finals):.2f} s "
          "(most) after the end of their last word")  # fmt: skip
    print(f"{100 * share:.0f} % of one core")


def resident() -> float:
    found = re.search(r"VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    assert found is not None
    return int(found[1]) / 1e3


def memory(model: Model, minutes: float, *, real_time: bool) -> None:
    given = turns(12)
    live, written, marks = Live(model, RATE, options={}), 0.0, []
    count, over = Counter[str](), threading.Event()
    started, cpu = time.perf_counter(), time.process_time()

    def follow() -> None:
        for segment in live.job.segments():
            count["final"] += bool(segment.text)

    def listen() -> None:
        while not over.wait(EVERY):
            count["interim"] += live.interim() is not None

    threads = [threading.Thread(target=work) for work in (follow, listen)]
    for thread in threads:
        thread.start()
    while written < 60 * minutes:
        for data, _ in given:
            for block in blocks(data):
                ahead = written - (time.perf_counter() - started) if real_time else 0.0
                time.sleep(max(0.0, ahead))
                while live.behind:
                    time.sleep(0.02)
                live.write(block)
                written += len(block) / 2 / RATE
        marks.append(resident())
        print(f"{written / 60:.1f} min: {marks[-1]:.1f} MB", flush=True)
    live.end()
    threads[0].join()
    over.set()
    threads[1].join()
    share = (time.process_time() - cpu) / (time.perf_counter() - started)
    tenth, half = len(marks) // 10, len(marks) // 2
    print(f"{written / 60:.0f} min of speech in {(time.perf_counter() - started) / 60:.0f} min, "
          f"{count['interim']} interim and {count['final']} final texts; resident "
          f"{marks[tenth]:.1f} MB after a tenth of it, {marks[half]:.1f} MB after half of it, "
          f"{marks[-1]:.1f} MB at the end; {100 * share:.0f} % of one core")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=["latency", "memory"])
    parser.add_argument("--model", type=Path, default=DEMO_MODEL)
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--real-time", action="store_true", help="feed memory in real time, too")
    args = parser.parse_args()
    with granite_gguf.load(args.model) as model:
        if args.what == "latency":
            latency(model, args.turns)
        else:
            memory(model, args.minutes, real_time=args.real_time)


if __name__ == "__main__":
    main()
