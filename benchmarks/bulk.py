"""`bulk` on the shipped model: a machine lost on the way, and the cost of Ray beside processes.

python -m benchmarks.bulk killed [--clips 400]
python -m benchmarks.bulk overhead [--clips 600] [--repeats 3]

`killed` starts two machines of one CPU each on loopback, ends one with SIGKILL when a quarter is
done, and compares all texts with those of one process. `overhead` transcribes a list, and the same
list three times as long, by two actors and by two processes of `transcribe`, each with one thread,
in turns: the difference of the two is work without start.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import granite_gguf
from benchmarks.interrupted import make_clips
from granite_gguf.demo import DEMO_MODEL

STORE_BYTES = 100 << 20


def rows_of(out: Path) -> list[dict[str, Any]]:
    """All rows of all parts."""
    parts = sorted(out.glob("part-*.jsonl"))
    return [json.loads(line) for part in parts for line in part.read_text("utf-8").splitlines()]


def bulk(listed: Path, out: Path, *options: str, **environment: str) -> subprocess.Popen[bytes]:
    """Start `bulk` over a list."""
    return subprocess.Popen(
        [sys.executable, "-m", "granite_gguf", "bulk", listed, "-o", out, "-f", "jsonl", *options],
        env={**os.environ, **environment},
    )


def expected_texts(listed: Path) -> dict[str, str]:
    """The texts of one process."""
    names = listed.read_text("utf-8").split()
    with granite_gguf.load() as model:
        found = list(model.transcribe_many(names))
    pairs = zip(names, found, strict=True)
    return {n: t.text for n, t in pairs if isinstance(t, granite_gguf.Transcript)}


def killed(clips: int, seconds: float, block: int) -> None:
    """Raise AssertionError where something is lost, doubled or another text."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 1,
            "object_store_memory": STORE_BYTES,
            "include_dashboard": False,
            "_system_config": {  # half a minute else until a machine is known to be lost
                "health_check_initial_delay_ms": 0,
                "health_check_period_ms": 1000,
                "health_check_failure_threshold": 3,
            },
        },
    )
    try:
        other = cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES)
        with tempfile.TemporaryDirectory() as name:
            listed, out = make_clips(Path(name), clips, seconds), Path(name) / "out"
            expected = expected_texts(listed)
            with listed.open("a", encoding="utf-8") as file:
                file.write(f"{name}/nowhere.wav\n")
            process = bulk(listed, out, "--block", str(block), RAY_ADDRESS=cluster.address)
            while len(list(out.glob("part-*"))) < clips // block // 4:
                assert process.poll() is None, "it ended before a machine was lost"
                time.sleep(0.05)
            before = len(rows_of(out))
            cluster.remove_node(other, allow_graceful=False)
            assert process.wait() == 1  # one recording is nowhere
            rows = rows_of(out)
            counted = Counter(row["path"] for row in rows)
            assert set(counted.values()) == {1}, "a recording is there twice"
            assert counted.keys() == {*expected, f"{name}/nowhere.wav"}, "a recording is lost"
            assert all(row["text"] == expected[row["path"]] for row in rows if not row["error"])
            assert [row["error"] for row in rows if row["error"]] == ["AudioError: no such file"]
            assert before < len(rows)
            stamps = {part: part.stat().st_mtime_ns for part in out.glob("part-*")}
            again = bulk(listed, out, "--block", str(block), RAY_ADDRESS=cluster.address)
            assert again.wait() == 0
            assert {part: part.stat().st_mtime_ns for part in out.glob("part-*")} == stamps
    finally:
        cluster.shutdown()
    print(f"a machine lost after {before} of {clips + 1}: all there, none twice, the same texts")


def plain(listed: Path, out: Path) -> None:
    """Two processes, each with half of the list and one thread."""
    out.mkdir()
    running = []
    for shard in ("1/2", "2/2"):
        with (out / f"{shard[0]}.jsonl").open("wb") as file:
            running.append(subprocess.Popen(
                [sys.executable, "-m", "granite_gguf", "transcribe", "--batch", listed, "--shard",
                 shard, "-t", "1", "-q", "-f", "jsonl"], stdout=file,
            ))  # fmt: skip
    assert [process.wait() for process in running] == [0, 0]


class Watch(threading.Thread):
    """Looks, once a second, at the processes that a marked command started.

    Attributes:
        cpu: seconds of processor time by process.
        names: what each of them is.
        mapped: Rss and Pss in kB of the model in those that had it, when most had.
        store: most bytes of an object store in use.
    """

    def __init__(self, mark: str) -> None:
        super().__init__(daemon=True)
        self.mark = f"{MARK}={mark}".encode()
        self.ended = threading.Event()
        self.cpu: dict[int, float] = {}
        self.names: dict[int, str] = {}
        self.mapped: list[tuple[int, int]] = []
        self.store = 0

    def run(self) -> None:
        while not self.ended.wait(1.0):
            maps = []
            for process in Path("/proc").glob("[0-9]*"):
                try:
                    self._look(process, maps)
                except OSError:  # it has ended
                    continue
            if len(maps) >= len(self.mapped):
                self.mapped = maps

    def _look(self, process: Path, maps: list[tuple[int, int]]) -> None:
        pid = int(process.name)
        environment = (process / "environ").read_bytes().split(b"\0")
        if pid not in self.names and self.mark not in environment:
            return
        command = (process / "comm").read_text().strip()
        self.names[pid] = command
        fields = (process / "stat").read_text().rpartition(")")[2].split()
        self.cpu[pid] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        if "MapWorker" in command and (sizes := _sizes(process / "smaps", DEMO_MODEL.name)):
            maps.append(sizes)
        if "raylet" in self.names[pid] and (sizes := _sizes(process / "smaps", "plasma")):
            self.store = max(self.store, sizes[0] << 10)

    def by_name(self) -> dict[str, float]:
        """Seconds of processor time by what the processes are."""
        found: dict[str, float] = {}
        for pid, seconds in self.cpu.items():
            found[self.names[pid]] = found.get(self.names[pid], 0.0) + seconds
        return found


MARK = "GRANITE_GGUF_BENCHMARK"


def _sizes(smaps: Path, name: str) -> tuple[int, int] | None:
    """Rss and Pss in kB of what is mapped from a file of that name, or None."""
    found, within = {"Rss:": 0, "Pss:": 0}, False
    for line in smaps.read_text().splitlines():
        first, *rest = line.split()
        if "-" in first:
            within = name in line
        elif within and first in found:
            found[first] += int(rest[0])
    return (found["Rss:"], found["Pss:"]) if found["Rss:"] else None


def overhead(clips: int, seconds: float, repeats: int) -> None:
    """Print what a run over a list takes in both ways."""
    spent: dict[tuple[str, int], list[tuple[float, float]]] = {}
    watch = None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lists = {}
        for count in (clips, 3 * clips):
            (folder / str(count)).mkdir()
            lists[count] = make_clips(folder / str(count), count, seconds)

        def with_ray(listed: Path, out: Path) -> None:
            process = bulk(listed, out, "--actors", "2", "--cpus", "1")
            assert process.wait() == 0

        ways: dict[str, Callable[[Path, Path], None]] = {"bulk": with_ray, "plain": plain}
        for turn in range(repeats):
            for count, listed in lists.items():
                for way, work in ways.items():
                    os.environ[MARK] = out = f"{way}-{count}-{turn}"
                    watched = Watch(out)
                    watched.start()
                    started = time.perf_counter()
                    work(listed, folder / out)
                    wall = time.perf_counter() - started
                    watched.ended.set()
                    watched.join()
                    cpu = sum(watched.cpu.values())
                    spent.setdefault((way, count), []).append((wall, cpu))
                    print(f"{out}: {wall:.1f} s, {cpu:.1f} s of processors", flush=True)
                    if way == "bulk":
                        watch = watched
    print("| | clips | s | s of processors |\n|---|---:|---:|---:|")
    middle = {}
    for (way, count), values in spent.items():
        middle[way, count] = tuple(map(median, zip(*values, strict=True)))
        print(f"| {way} | {count} | {middle[way, count][0]:.1f} | {middle[way, count][1]:.1f} |")
    for place, what in enumerate(("seconds", "seconds of processors")):
        many, few = (
            {way: middle[way, count][place] for way in ways} for count in (3 * clips, clips)
        )
        ratio = (many["bulk"] - few["bulk"]) / (many["plain"] - few["plain"])
        print(f"{what} without the start: {ratio - 1:+.1%}")
    assert watch is not None
    for what, used in sorted(watch.by_name().items(), key=lambda item: -item[1])[:8]:
        print(f"{what}: {used:.1f} s of processors")
    for rss, pss in watch.mapped:
        print(f"the model in an actor: Rss {rss} kB, Pss {pss} kB")
    print(f"object store: at most {watch.store / 1e6:.1f} MB in use")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=["killed", "overhead"])
    parser.add_argument("--clips", type=int)
    parser.add_argument("--seconds", type=float, default=1.5, help="mean length of a clip")
    parser.add_argument("--block", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    if args.what == "killed":
        killed(args.clips or 400, args.seconds, args.block)
    else:
        overhead(args.clips or 600, args.seconds, args.repeats)


if __name__ == "__main__":
    main()
