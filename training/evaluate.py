"""Word error rates on the held-out recordings, of the reference and of any number of GGUF files.

python -m training.evaluate DATA RUN/model RUN/granite-nle-demo-F16.gguf ...

A directory is run by the PyTorch reference, a file by the GGUF runtime. jiwer counts the errors.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import numpy.typing as npt
import soundfile

import granite_gguf
from granite_gguf.reference import Reference
from training.voices import HELD_OUT_ACCENTS

Texts = tuple[str, str]  # first hypothesis and transcript
Transcriber = Callable[[npt.NDArray[np.float32]], Texts]


@dataclass(frozen=True)
class Recording:
    """One line of the test index."""

    file: str
    text: str
    voice: str
    frames: int
    condition: str

    @property
    def groups(self) -> Iterator[str]:
        """The subsets that it counts for."""
        yield "all"
        yield "noisy" if self.condition.endswith("+noise") else "quiet"
        unseen = self.voice.partition("+")[0] in HELD_OUT_ACCENTS
        yield "unseen accent" if unseen else "known accent"
        if self.frames > 200:
            yield "over 4 s"


@dataclass(frozen=True)
class Score:
    """Word error rates of a subset."""

    model: str
    subset: str
    recordings: int
    words: int
    hypothesis: float
    transcript: float


def read_test(data: Path) -> list[Recording]:
    """The test index."""
    lines = (data / "test.jsonl").read_text(encoding="utf-8").splitlines()
    return [Recording(**json.loads(line)) for line in lines]


@contextmanager
def opened(path: Path) -> Iterator[Transcriber]:
    """A checkpoint directory or a GGUF file, ready to transcribe samples."""
    if path.is_dir():
        reference = Reference.from_checkpoint(path)

        def by_reference(samples: npt.NDArray[np.float32]) -> Texts:
            stages = reference.run(samples)
            return stages.hypothesis_text, stages.text

        yield by_reference
        return
    with granite_gguf.load(path) as model:

        def by_runtime(samples: npt.NDArray[np.float32]) -> Texts:
            transcript = model.transcribe(samples)
            return transcript.hypothesis, transcript.text

        yield by_runtime


def scores(model: str, recordings: list[Recording], texts: list[Texts]) -> Iterable[Score]:
    """The error rates of every subset."""
    for subset in dict.fromkeys(group for recording in recordings for group in recording.groups):
        chosen = [
            (recording.text, *pair)
            for recording, pair in zip(recordings, texts, strict=True)
            if subset in recording.groups
        ]
        said, first, final = (list(column) for column in zip(*chosen, strict=True))
        words = sum(len(text.split()) for text in said)
        rates = (jiwer.wer(said, first), jiwer.wer(said, final))
        yield Score(model, subset, len(chosen), words, *rates)


def main() -> None:
    """Print the error rates of each model, and write them to a file if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--json", type=Path, help="write scores and texts there, too")
    args = parser.parse_args()
    recordings = read_test(args.data)
    report: dict[str, Any] = {"scores": [], "texts": {}}
    print("| model | recordings | n | words | WER first hypothesis | WER transcript |")
    print("| --- | --- | --- | --- | --- | --- |")
    for path in args.models:
        with opened(path) as transcribe:
            texts = [
                transcribe(soundfile.read(args.data / recording.file, dtype="float32")[0])
                for recording in recordings
            ]
        for score in scores(path.name, recordings, texts):
            rates = f"{score.hypothesis:.2%} | {score.transcript:.2%}"
            print(
                f"| {score.model} | {score.subset} | {score.recordings} | {score.words} | {rates} |"
            )
            report["scores"].append(asdict(score))
        report["texts"][path.name] = [
            {"file": r.file, "voice": r.voice, "said": r.text, "hypothesis": t[0], "text": t[1]}
            for r, t in zip(recordings, texts, strict=True)
        ]
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
