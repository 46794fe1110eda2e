"""What the looking for NaN and infinity adds to the time of loading a model.

    python benchmarks/load_time.py MODEL.gguf [...] [--rounds 3]

Loads with and without it take turns, with the file in the page cache; the best of each counts.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from unittest.mock import patch

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import granite_gguf


def seconds_to_load(path: Path) -> float:
    """Load and close a model on the CPU."""
    started = time.perf_counter()
    model = granite_gguf.load(path, device="cpu")
    spent = time.perf_counter() - started
    model.close()
    return spent


def main() -> int:
    """Measure each model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    for path in options.models:
        checked, unchecked = [], []
        seconds_to_load(path)  # fills the page cache
        for _ in range(options.rounds):
            checked.append(seconds_to_load(path))
            with patch("granite_gguf.placing.weights.check_stored", lambda *_: None):
                unchecked.append(seconds_to_load(path))
        print(
            f"{path.name}: {min(checked):.2f} s, without the checks {min(unchecked):.2f} s",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
