"""What token after token costs an autoregressive model: steps, prompts, drafts, whole clips.

python -m benchmarks.decoding MODEL.gguf AUDIO [--editor NAR.gguf] [--tokens 32]
    [--rows 2 8 33] [--repeats 5] [--threads 2] [--only PART...]

Whatever its weights are, the model is made to say so many tokens, and to hear the same ones (a
draft that is accepted), or others (nothing is). A step is held against the time in which memory
gives the weights that it reads, measured in the same run, of memory in large pages and of the file
as it is mapped; the prompt against a NAR model's editor with as many rows, and the clip against
that model with as many tokens. All take turns, and every one is run once before. Prints Markdown:
medians, and the best of each. Other engines: `benchmarks/in_turns.py`.
"""

from __future__ import annotations

import argparse
import math
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt

import granite_gguf
from granite_gguf.arrays import FloatArray, as_rows, in_kind
from granite_gguf.ggml import measure_bandwidth
from granite_gguf.memory import peak_resident
from granite_gguf.nar.stages import Stages
from granite_gguf.sound.reading import read_audio
from granite_gguf.spec.tables import granite_tensors
from granite_gguf.spec.tensors import LLAMA_NAMES, Stage
from granite_gguf.speech.asking import Wish, around_audio, instruction
from granite_gguf.speech.greedy import Choice, Step
from granite_gguf.speech.language import Language
from granite_gguf.speech.stages import SpeechStages

Seconds = Callable[[], float]
READ, LINE = 256 << 20, 64
FIRST = 1000  # of the tokens that are said; those that are only heard begin behind them


def weight_bytes(model: granite_gguf.Model) -> int:
    """Of all that a step reads of the file."""
    llm, file = model.hparams.llm, model.file
    head = not llm.tie_word_embeddings
    total = 0
    for spec in granite_tensors(llm, Stage.LANGUAGE, LLAMA_NAMES, head=head).specs:
        info = file.info(spec.name)
        if not (head and spec.name == LLAMA_NAMES.embedding):
            total += info.byte_count
    return total


def some_weights(model: granite_gguf.Model) -> npt.NDArray[np.uint8]:
    """A stretch of the mapped file, larger than caches, of what a step reads."""
    first = granite_tensors(model.hparams.llm, Stage.LANGUAGE, LLAMA_NAMES, head=False).specs[0]
    start = model.file.info(first.name).offset // LINE * LINE
    return model.file.container.data[start : start + READ]


def in_large_pages(path: Path) -> float:
    """Bytes of a file that this process has mapped so; 0 where the system does not tell."""
    maps = Path("/proc/self/smaps")
    told = maps.read_text() if maps.exists() else ""
    one = re.search(rf"{re.escape(str(path.resolve()))}\n(?:.*\n)*?FilePmdMapped: +(\d+) kB", told)
    return float(one[1]) * 1024 if one else 0.0


@contextmanager
def saying(tokens: Sequence[int], heard: Sequence[int], eos: int) -> Iterator[None]:
    """Models compute as always, and then say some tokens and their end, having heard others."""
    begin, step, told = Language.begin, Language.step, [*tokens, eos]

    def made(choices: Sequence[Choice], first: int) -> list[Choice]:
        said = [told[min(n, len(tokens))] for n in range(first, first + len(choices))]
        return [replace(c, token=t, lead=math.inf) for c, t in zip(choices, said, strict=True)]

    def begun(self: Language, *args: Any) -> list[list[Choice]]:
        return [made(choices, 0) for choices in begin(self, *args)]

    def stepped(self: Language, wanted: Mapping[int, Step]) -> dict[int, list[Choice]]:
        return {n: made(c, wanted[n].said + 1) for n, c in step(self, wanted).items()}

    def reads(read: Callable[..., Any]) -> Callable[..., Any]:
        def reading(self: Any, ids: Any) -> Any:
            return in_kind(ids, as_rows(read(self, ids)).each(lambda _: np.array(heard)))

        return reading

    with (
        patch.object(Language, "begin", begun),
        patch.object(Language, "step", stepped),
        patch.object(SpeechStages, "read_hypothesis", reads(SpeechStages.read_hypothesis)),
        patch.object(Stages, "read_hypothesis", reads(Stages.read_hypothesis)),
    ):
        yield


def timed(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


class Decoder:
    """The model that is measured, with the prompt that it is given for a recording."""

    def __init__(self, model: granite_gguf.Model, samples: FloatArray, count: int) -> None:
        self.model, self._samples, self._count = model, samples, count
        encoded = model.run_encoder(model.compute_mel(samples))
        audio = model.run_projector(encoded.captured)
        self.prompt = model.prompt(
            audio, around_audio(model.hparams, instruction(model.hparams, Wish()))
        )
        self.audio_rows = len(audio)

    def read_prompt(self) -> float:
        stages = self.model.stages
        with stages._computing():
            return timed(lambda: stages._language.begin([self.prompt], [self._count]))

    def steps(self, rows: int = 1) -> list[float]:
        """Each of one token, or of more at the first place."""
        stages = self.model.stages
        wanted = [Step(n, (FIRST + n,)) for n in range(self._count)]
        if rows > 1:
            wanted = [Step(0, tuple(range(FIRST, FIRST + rows)))] * 3
        with stages._computing():
            stages._language.begin([self.prompt], [self._count])
            stages._language.step({0: wanted[0]})
            return [timed(lambda s=s: stages._language.step({0: s})) for s in wanted]

    def clip(self, heard_from: int | None) -> float:
        """The whole recording, having heard tokens from some number on, or without a draft."""
        said = range(FIRST, FIRST + self._count)
        heard = range(heard_from or FIRST, (heard_from or FIRST) + self._count)
        draft = "off" if heard_from is None else "auto"
        with saying(said, heard, self.model.hparams.llm.eos_token_id):
            spent = timed(lambda: self._transcribe(draft, said))
        return spent

    def _transcribe(self, draft: str, said: Sequence[int]) -> None:
        found = self.model.transcribe(self._samples, draft=draft, min_confidence=0)
        assert found.segments[0].token_ids == tuple(said), found.segments


class Editor:
    """A model of the other family, with as many rows."""

    def __init__(
        self, model: granite_gguf.Model, samples: FloatArray, count: int, rows: int
    ) -> None:
        self._model, self._samples, self._count = model, samples, count
        encoded = model.run_encoder(model.compute_mel(samples))
        self._audio = model.run_projector(encoded.captured)
        self._text = np.arange(FIRST, FIRST + rows - len(self._audio))

    def edit(self) -> float:
        return timed(lambda: self._model.run_editor(self._audio, self._text))

    def clip(self) -> float:
        heard = range(FIRST, FIRST + self._count)
        with saying((), heard, 0):
            return timed(lambda: self._model.transcribe(self._samples))


def alone(args: argparse.Namespace) -> float:
    """Peak resident bytes of a process that transcribes the recording twice."""
    command = [sys.executable, "-m", "benchmarks.decoding", str(args.model), str(args.audio)]
    command += ["--tokens", str(args.tokens), "--threads", str(args.threads), "--alone"]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("audio", type=Path)
    parser.add_argument("--editor", type=Path, help="a NAR model of the same class")
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--rows", type=int, nargs="*", default=[2, 8, 33], help="of steps looked at besides"
    )
    parser.add_argument("--only", nargs="+", metavar="PART", help="of what is timed, by name")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    samples, count = read_audio(args.audio, 16_000), args.tokens
    with ExitStack() as stack:
        load = lambda path: stack.enter_context(granite_gguf.load(path, threads=args.threads))  # noqa: E731
        peak = 0.0 if args.alone or args.only else alone(args)
        model = load(args.model)
        ours = Decoder(model, samples, count)
        others, stretch = count + FIRST, some_weights(model)
        plain = "clip, no draft"
        clips: dict[str, Seconds] = {
            plain: lambda: ours.clip(None),
            "clip, the draft accepted": lambda: ours.clip(FIRST),
            "clip, nothing accepted": lambda: ours.clip(others),
        }
        if args.alone:
            for clip in 2 * [*clips.values()]:
                clip()
            print(peak_resident())
            return
        runs: dict[str, Callable[[], float | list[float]]] = {
            "bandwidth": lambda: measure_bandwidth(args.threads),
            "bandwidth of the file": lambda: measure_bandwidth(args.threads, stretch),
            "step": ours.steps,
            **{f"step of {n} rows": partial(ours.steps, n) for n in args.rows},
            "prompt": ours.read_prompt,
            **clips,
        }
        if args.editor:
            editor = Editor(load(args.editor), samples, count, len(ours.prompt))
            runs |= {"editor": editor.edit, "NAR clip": editor.clip}
        if args.only:
            wanted = ["bandwidth", *args.only]
            runs = {name: run for name, run in runs.items() if any(w in name for w in wanted)}
        found: dict[str, list[float]] = {name: [] for name in runs}
        for repeat in range(args.repeats + 1):
            for name, run in runs.items():
                seconds = run()
                if repeat:  # the first one warms up
                    found[name] += seconds if isinstance(seconds, list) else [seconds]
        large = in_large_pages(args.model)
    weights, size = weight_bytes(model), args.model.stat().st_size
    print(f"{args.model.name}, {args.threads} threads, {weights / 1e9:.2f} GB of weights a step, "
          f"{large / 1e6:.0f} of the file's {size / 1e6:.0f} MB in large pages.")  # fmt: skip
    middle = {name: median(seconds) for name, seconds in found.items()}
    best = {n: (max if n.startswith("bandwidth") else min)(s) for n, s in found.items()}
    report(f"Median of {args.repeats}", weights, middle)
    report("The best of each", weights, best)
    if peak:
        print(f"\nPeak resident {peak / 1e6:.0f} MB, {(peak - size) / 1e6:.0f} more than the file.")
    print(f"\nThe prompt has {len(ours.prompt)} rows, {ours.audio_rows} of them audio.")


def report(title: str, weights: int, spent: Mapping[str, float]) -> None:
    bandwidth = spent["bandwidth"]
    print(f"\n{title}; memory in large pages gives {bandwidth / 1e9:.1f} GB/s, the file "
          f"{spent['bandwidth of the file'] / 1e9:.1f}.\n")  # fmt: skip
    print("| | seconds | beside | seconds | ratio |\n|---|---:|---|---:|---:|")
    beside = {
        "prompt": "editor",
        "clip, the draft accepted": "NAR clip",
        "clip, nothing accepted": "clip, no draft",
    }
    floor = weights / bandwidth
    for name, seconds in spent.items():
        if name.startswith("bandwidth") or name in ("editor", "NAR clip"):
            continue
        other = beside.get(name)
        if name.startswith("step"):
            cells = ["weights read", f"{floor:.4f}", f"{seconds / floor:.2f}"]
        elif other in spent:
            cells = [other, f"{spent[other]:.3f}", f"{seconds / spent[other]:.2f}"]
        else:
            cells = ["", "", ""]
        print(f"| {name} | {seconds:.4f} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
