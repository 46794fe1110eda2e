"""What the editor of a NAR model takes: always, never, and where the hypothesis is sure or is not.

`python -m benchmarks.editor SPEECH FILE...` transcribes a recording in turns, and prints the least
seconds of each, and in brackets the median of the processor's. Whether a hypothesis is sure is set
by hand: of random weights it never is.
"""

from __future__ import annotations

import statistics
import sys
import time
from unittest.mock import patch

import granite_gguf
from granite_gguf.nar import transcribe

REPEATS = 3
MODES = {
    "always": ("always", None),
    "auto, sure": ("auto", 0.0),
    "auto, not sure": ("auto", 2.0),
    "never": ("never", None),
}


def measure(path: str, speech: str) -> dict[str, list[tuple[float, float]]]:
    """Seconds of each mode, by the clock and of the processor."""
    spent: dict[str, list[tuple[float, float]]] = {mode: [] for mode in MODES}
    with granite_gguf.load(path) as model:
        model.transcribe(speech, chunk_seconds=60)
        for _ in range(REPEATS):
            for mode, (editor, sure) in MODES.items():
                with patch.object(transcribe, "SURE", transcribe.SURE if sure is None else sure):
                    started, worked = time.perf_counter(), time.process_time()
                    found = model.transcribe(speech, chunk_seconds=60, editor=editor)
                    seconds = time.perf_counter() - started, time.process_time() - worked
                    spent[mode].append(seconds)
                assert ("editor" in found.timings) == (mode in ("always", "auto, not sure"))
    return spent


def main() -> None:
    speech, *files = sys.argv[1:]
    print("| file |", " | ".join(MODES), "|")
    print("|---|" + "---:|" * len(MODES))
    for path in files:
        cells = []
        for times in measure(path, speech).values():
            clock, worked = zip(*times, strict=True)
            cells.append(f"{min(clock):.2f} ({statistics.median(worked):.2f})")
        print(f"| {path} |", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
