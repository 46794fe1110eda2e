"""Many clips on the shipped model, killed at random moments: all there at the end, none twice.

Each run is `transcribe --skip-existing` over the same list of clips, cut from the samples; SIGKILL
ends all but the last. Every text is compared with that of the whole list in one process, every
file is looked for under another name, and a file is written once: its time of change stays.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

from granite_gguf.demo import DEMO_SAMPLES

_SHORTEST = 0.01  # seconds that a run goes on at most after its first result


def make_clips(folder: Path, count: int, seconds: float) -> Path:
    """Clips named in a list; no two begin at the same sample of a sample."""
    spoken = [soundfile.read(path, dtype="int16")[0] for path in DEMO_SAMPLES]
    r = np.random.default_rng(7)
    names = []
    for number in range(count):
        samples = spoken[number % len(spoken)]
        length = int(16_000 * seconds * r.uniform(0.5, 1.5))
        begin = int(r.integers(0, len(samples) - length))
        path = folder / f"{number:05d}.wav"
        soundfile.write(path, samples[begin : begin + length], 16_000)
        names.append(str(path))
    listed = folder / "list.txt"
    listed.write_text("\n".join(names) + "\n", encoding="utf-8")
    return listed


def transcribe(listed: Path, out: Path) -> subprocess.Popen[bytes]:
    """Start a run over the list."""
    return subprocess.Popen(
        [sys.executable, "-m", "granite_gguf", "transcribe", "--batch", listed, "-o", out,
         "--skip-existing", "-q"]
    )  # fmt: skip


def results(out: Path) -> dict[str, tuple[bytes, int]]:
    """Contents and time of change of what lies under a final name."""
    found = (path for path in out.iterdir() if not path.name.startswith("."))
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in found}


def check(clips: int, kills: int, seconds: float, seed: int = 11) -> dict[str, float]:
    """Run it, and raise AssertionError where something is lost, doubled, partial or made again."""
    r = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        listed = make_clips(folder, clips, seconds)
        started = time.perf_counter()
        assert transcribe(listed, folder / "whole").wait() == 0
        whole_seconds = time.perf_counter() - started
        expected = {key: text for key, (text, _) in results(folder / "whole").items()}
        assert len(expected) == clips
        out = folder / "out"
        out.mkdir()
        before: dict[str, tuple[bytes, int]] = {}
        killed, spent, longest = 0, 0.0, whole_seconds / (kills + 2)
        while killed < kills:
            process = transcribe(listed, out)
            started = time.perf_counter()
            # Waits for the first new result, so that every run does something before it ends.
            while len(list(out.iterdir())) <= len(before) and process.poll() is None:
                time.sleep(0.01)
            time.sleep(r.uniform(0, longest))
            process.send_signal(signal.SIGKILL)
            code = process.wait()
            now = results(out)
            assert now.items() >= before.items(), "a finished result was written again"
            if code == 0 and longest > _SHORTEST:  # the machine is faster now than it was
                longest /= 2
                for new in now.keys() - before.keys():
                    (out / new).unlink()
                continue
            assert code == -signal.SIGKILL, f"it ended by itself with {code} before it was killed"
            spent += time.perf_counter() - started
            assert all(expected[key] == text for key, (text, _) in now.items()), "a partial result"
            print(f"killed with {len(now)} of {clips} results")
            before, killed = now, killed + 1
        started = time.perf_counter()
        assert transcribe(listed, out).wait() == 0
        spent += time.perf_counter() - started
        now = results(out)
        assert now.items() >= before.items(), "a finished result was written again"
        assert {key: text for key, (text, _) in now.items()} == expected
        return {"whole": whole_seconds, "interrupted": spent}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5, help="mean length of a clip")
    arguments = parser.parse_args()
    spent = check(arguments.clips, arguments.kills, arguments.seconds)
    print(
        f"{arguments.clips} clips: {spent['whole']:.1f} s in one run; killed {arguments.kills} "
        f"times, {spent['interrupted']:.1f} s; all there, none twice"
    )


if __name__ == "__main__":
    main()
