"""A checkpoint's converted files against PyTorch: cosines by stage, ids, seconds, memory.

python benchmarks/full_size.py CHECKPOINT AUDIO MODEL.gguf... [--repeats 5] [--work DIR]

The reference runs once, in a process of its own, in float32: the full-size model needs 10 GB for
it. Each file then runs in a fresh process. Every stage gets the reference's inputs, so that a
difference shows where it arises; `transcribe` is end to end. Prints Markdown.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from granite_gguf.memory import peak_resident

STAGES = (
    *("mel_spectrogram", "encoder_output", "encoder_final", "encoder_logits", "pooled"),
    *("bpe_logits", "projector_output", "editing_logits"),
)


def run_reference(checkpoint: Path, audio: Path, output: Path) -> None:
    import torch

    from granite_gguf.reference import Reference
    from granite_gguf.sound.reading import read_audio

    torch.set_num_threads(2)
    reference = Reference.from_checkpoint(checkpoint)
    samples = read_audio(audio, 16_000)
    started = time.perf_counter()
    stages = reference.run(samples)
    seconds = time.perf_counter() - started
    np.savez(
        output,
        allow_pickle=False,
        text=np.array(stages.text),
        seconds=np.array(seconds),
        memory=np.array(peak_resident()),
        **{name: array for name, array in stages.arrays().items() if array.dtype.kind in "fi"},
    )


def run_model(path: Path, audio: Path, expected_path: Path, repeats: int) -> dict[str, Any]:
    """Timings and memory first, as a user's process has them; then the stages one by one."""
    import granite_gguf
    from granite_gguf.parity import compare

    started = time.perf_counter()
    with granite_gguf.load(path) as model:
        load_seconds = time.perf_counter() - started
        runs = [model.transcribe(audio) for _ in range(repeats)]
        memory = peak_resident()
        with np.load(expected_path) as file:
            expected = dict(file)
        mel = expected["mel_spectrogram"].astype(np.float32)
        encoded = model.run_encoder(mel, frozenset({"encoder_logits"}))
        head = model.run_hypothesis_head(
            expected["encoder_final"], expected["blank_prob"], frozenset({"pooled", "bpe_logits"})
        )
        edited = model.run_editor(
            expected["audio_embs_for_llm"],
            expected["text_ids_with_slots"],
            frozenset({"editing_logits"}),
        )
        actual = {
            "mel_spectrogram": model.compute_mel(model.load_audio(audio)),
            "encoder_output": encoded.captured,
            "encoder_final": encoded.final,
            "encoder_logits": encoded.taps["encoder_logits"],
            "pooled": head.taps["pooled"],
            "bpe_logits": head.taps["bpe_logits"],
            "projector_output": model.run_projector_windows(expected["encoder_output"]),
            "editing_logits": edited.taps["editing_logits"],
        }
        hypothesis = model.run_hypothesis(encoded.final, encoded.blank)
        comparisons = {name: compare(actual[name], expected[name]) for name in STAGES}
        return {
            "device": model.device.description,
            "threads": model.threads,
            "load": load_seconds,
            "timings": [run.timings for run in runs],
            "memory": memory,
            "duration": runs[0].duration,
            "cos_min": {name: result.cos_min for name, result in comparisons.items()},
            "cos_mean": {name: result.cos_mean for name, result in comparisons.items()},
            "bpe_ids": float((head.ids == expected["bpe_ids"]).mean()),
            "edited_ids": float((edited.ids == expected["edited_ids"]).mean()),
            "hypothesis_equal": hypothesis.tolist() == expected["hypothesis_ids"].tolist(),
            "text_equal": runs[0].text == str(expected["text"]),
        }


def in_process(*arguments: object) -> str:
    command = [sys.executable, __file__, *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def report(results: dict[Path, dict[str, Any]], reference: dict[str, Any]) -> None:
    first = next(iter(results.values()))
    names = [path.name for path in results]
    rule = "|---|" + "---:|" * len(names)

    def table(title: str, rows: dict[str, list[str]]) -> None:
        print(f"\n| {title} | " + " | ".join(names) + f" |\n{rule}")
        for row, cells in rows.items():
            print(f"| {row} | " + " | ".join(cells) + " |")

    print(f"{platform.platform()}, {first['device']}, {first['threads']} threads, "
          f"{first['duration']:.1f} s of audio\n")  # fmt: skip
    print(f"PyTorch float32: {float(reference['seconds']):.2f} s, "
          f"{float(reference['memory']) / 1e9:.2f} GB peak (one run, not warmed up)")  # fmt: skip
    cells = results.values()
    table("1 - lowest (mean) cosine of a row", {
        stage: [f"{1 - r['cos_min'][stage]:.0e} ({1 - r['cos_mean'][stage]:.0e})" for r in cells]
        for stage in STAGES
    })  # fmt: skip
    table("agreement", {
        "BPE head, best ids": [f"{r['bpe_ids']:.2%}" for r in cells],
        "hypothesis, end to end": ["equal" if r["hypothesis_equal"] else "differs" for r in cells],
        "editor, best ids": [f"{r['edited_ids']:.2%}" for r in cells],
        "transcript, end to end": ["equal" if r["text_equal"] else "differs" for r in cells],
    })  # fmt: skip
    stages = list(first["timings"][0])
    seconds = {
        stage: [f"{median(run[stage] for run in r['timings']):.3f}" for r in cells]
        for stage in stages
    }
    seconds["whole"] = [f"{median(sum(run.values()) for run in r['timings']):.2f}" for r in cells]
    seconds["load"] = [f"{r['load']:.2f}" for r in cells]
    table(f"seconds, median of {len(first['timings'])}", seconds)
    table("memory", {
        "file, GB": [f"{path.stat().st_size / 1e9:.2f}" for path in results],
        "peak resident, GB": [f"{r['memory'] / 1e9:.2f}" for r in cells],
    })  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("audio", type=Path)
    parser.add_argument("models", type=Path, nargs="*")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--work", type=Path, help="where to keep the reference's outputs")
    parser.add_argument("--child", choices=("reference", "model"), help=argparse.SUPPRESS)
    parser.add_argument("--expected", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child == "reference":
        run_reference(args.checkpoint, args.audio, args.expected)
        return
    if args.child == "model":
        print(json.dumps(run_model(args.models[0], args.audio, args.expected, args.repeats)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        expected = (args.work or Path(temporary)) / "reference.npz"
        common = (args.checkpoint, args.audio)
        if not expected.exists():
            in_process(*common, "--child", "reference", "--expected", expected)
        results = {
            path: json.loads(
                in_process(*common, path, "--child", "model", "--expected", expected,
                           "--repeats", args.repeats)
            )
            for path in args.models
        }  # fmt: skip
        with np.load(expected) as file:
            reference = {name: file[name] for name in ("seconds", "memory")}
        report(results, reference)


if __name__ == "__main__":
    main()
