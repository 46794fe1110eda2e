"""How time and memory grow with the length of the audio and fall with the threads, file by file.

python -m benchmarks.scaling AUDIO MODEL.gguf... [--seconds 3 11 35] [--threads 1 2]
    [--repeats 3] [--json OUT.json] [--plots FOLDER]

The recording is repeated or cut to each length. Each measurement is a process of its own, that of
`granite-gguf bench`, for its peak memory. Prints Markdown; the plots show the time of each stage by
file, and the cost of a second of audio over its length.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from granite_gguf.sound.reading import read_audio

RATE = 16_000
STAGES = ("encoder", "hypothesis", "projector", "editor")


def measure(model: Path, audio: Path, seconds: float, threads: int, repeats: int) -> dict[str, Any]:
    samples = read_audio(audio, RATE)
    count = int(seconds * RATE)
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "clip.wav"
        repeated = np.tile(samples, -(-count // len(samples)))[:count]
        soundfile.write(clip, repeated, RATE, subtype="FLOAT")
        command = [sys.executable, "-m", "granite_gguf", "bench", str(model), str(clip), "--json"]
        command += ["--no-floor", "--threads", str(threads), "--repeats", str(repeats)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def row(found: dict[str, Any]) -> str:
    spent = {name: stage["median"] for name, stage in found["stages"].items()}
    stages = " | ".join(f"{spent.get(name, 0):.2f}" for name in STAGES)
    return (
        f"| {Path(found['model']).stem} | {found['duration']:.0f} | {found['threads']} | {stages} "
        f"| {spent['whole']:.2f} | {found['duration'] / spent['whole']:.2f} "
        f"| {found['peak_memory'] / 1e9:.2f} |"
    )


def draw(found: list[dict[str, Any]], folder: Path) -> None:
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)
    most = max(one["threads"] for one in found)
    mine = [one for one in found if one["threads"] == most]
    models = list(dict.fromkeys(one["model"] for one in mine))
    lengths = sorted({one["duration"] for one in mine})
    typical = min(lengths, key=lambda length: abs(length - 11))

    figure = Figure(figsize=(8, 0.6 * len(models) + 1.6), layout="constrained")
    axes = figure.subplots()
    names = [Path(model).stem for model in models]
    at_hand = {one["model"]: one["stages"] for one in mine if one["duration"] == typical}
    left = np.zeros(len(models))
    for stage in STAGES:
        spent = np.array([at_hand[model][stage]["median"] for model in models])
        axes.barh(names, spent, left=left, label=stage)
        left += spent
    axes.set_xlabel(f"seconds for {typical:.0f} s of audio, {most} threads")
    axes.invert_yaxis()
    axes.legend()
    figure.savefig(folder / "stages.png", dpi=110)

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for model, name in zip(models, names, strict=True):
        points = sorted(
            (one["duration"], one["stages"]["whole"]["median"] / one["duration"])
            for one in mine
            if one["model"] == model
        )
        axes.plot(*zip(*points, strict=True), marker="o", label=name)
    axes.set_xscale("log")
    axes.set_xticks(lengths, [f"{length:.0f}" for length in lengths])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("seconds of audio")
    axes.set_ylabel("seconds of work for a second of audio")
    axes.legend()
    figure.savefig(folder / "length.png", dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("audio", type=Path)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--seconds", nargs="+", type=float, default=[3, 11, 35])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="add the measurements to this file")
    parser.add_argument("--plots", type=Path, help="draw everything in the JSON file")
    args = parser.parse_args()
    known = json.loads(args.json.read_text()) if args.json and args.json.exists() else []
    print(
        "| file | audio, s | threads | " + " | ".join(STAGES) + " | whole | x real time | peak GB |"
    )
    print("|---|---:|---:|" + "---:|" * (len(STAGES) + 3), flush=True)
    for model in args.models:
        for seconds in args.seconds:
            for threads in args.threads:
                known.append(measure(model, args.audio, seconds, threads, args.repeats))
                print(row(known[-1]), flush=True)
                if args.json:
                    args.json.write_text(json.dumps(known, indent=1))
    if args.plots:
        draw(known, args.plots)


if __name__ == "__main__":
    main()
