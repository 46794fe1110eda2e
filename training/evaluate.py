"""Word error rates on the held-out recordings, of the reference and of any number of GGUF files.

python -m training.evaluate DATA RUN/model RUN/granite-nle-demo-F16.gguf ...
python -m training.evaluate DATA RUN/granite-nle-demo-F16.gguf --passes 40

A directory is run by the PyTorch reference, a file by the GGUF runtime, each recording in one
pass. `--passes` joins the recordings into so many of each length in place of taking them one by
one: those without noise with quiet pauses between them, and every second pass has noise of its own.
jiwer counts the errors.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import soundfile

import granite_gguf
from granite_gguf.reference import Reference
from training.passes import LENGTHS, SECOND, Pass, Passes
from training.speech import SAMPLE_RATE, Samples, with_noise
from training.synthesize import TEST_NOISE
from training.voices import HELD_OUT_ACCENTS

MOST_SECONDS = 60  # of a pass, longer than any
SAMPLES_OF_A_FRAME = SAMPLE_RATE // SECOND

Texts = tuple[str, str]  # first hypothesis and transcript
Transcriber = Callable[[Samples], Texts]


@dataclass(frozen=True)
class Recording:
    """One line of the test index."""

    file: str
    text: str
    voice: str
    frames: int
    condition: str

    def samples(self, data: Path) -> Samples:
        """Its sound."""
        found: Samples = soundfile.read(data / self.file, dtype="float32")[0]
        return found

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
class Joined:
    """Several recordings in one, with pauses."""

    drawn: Pass[Recording]
    group: str
    noise: float | None  # decibels below the speech
    seed: int

    @property
    def text(self) -> str:
        return self.drawn.text

    @property
    def groups(self) -> Iterator[str]:
        yield self.group
        yield f"{self.group}, {'quiet' if self.noise is None else 'noisy'}"

    def samples(self, data: Path) -> Samples:
        """Its sound."""
        first, *others = (part.samples(data) for part in self.drawn.parts)
        rows = [first]
        for pause, part in zip(self.drawn.pauses, others, strict=True):
            rows += [np.zeros(pause * SAMPLES_OF_A_FRAME, np.float32), part]
        whole = np.concatenate(rows)
        if self.noise is None:
            return whole
        return with_noise(whole, np.random.default_rng(self.seed), self.noise)


def passes(recordings: list[Recording], count: int, seed: int) -> Iterator[Joined]:
    """`count` of each length; every length is drawn from all recordings without noise."""
    rng = random.Random(seed)
    quiet = [r for r in recordings if not r.condition.endswith("+noise")]
    for least, most in LENGTHS:
        drawn: list[Pass[Recording]] = []
        while len(drawn) < count:
            drawn += Passes(quiet, rng).of_length(least, most, count - len(drawn))
        for n, one in enumerate(drawn):
            noise = rng.uniform(*TEST_NOISE) if n % 2 else None
            yield Joined(one, f"{least}-{most} s", noise, rng.getrandbits(32))


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

        def by_reference(samples: Samples) -> Texts:
            stages = reference.run(samples)
            return stages.hypothesis_text, stages.text

        yield by_reference
        return
    with granite_gguf.load(path) as model:

        def by_runtime(samples: Samples) -> Texts:
            transcript = model.transcribe(
                samples, chunk_seconds=MOST_SECONDS, vad="off", min_confidence=0
            )
            return transcript.hypothesis, transcript.text

        yield by_runtime


def scores(
    model: str, recordings: Sequence[Recording | Joined], texts: list[Texts]
) -> Iterable[Score]:
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
    parser.add_argument("--passes", type=int, help="of each length, in place of the recordings")
    parser.add_argument("--seed", type=int, default=0, help="of what is joined")
    parser.add_argument("--json", type=Path, help="write scores and texts there, too")
    args = parser.parse_args()
    recordings: Sequence[Recording | Joined] = read_test(args.data)
    if args.passes:
        recordings = list(passes(read_test(args.data), args.passes, args.seed))
    report: dict[str, Any] = {"scores": [], "texts": {}}
    print("| model | recordings | n | words | WER first hypothesis | WER transcript |")
    print("| --- | --- | --- | --- | --- | --- |")
    for path in args.models:
        with opened(path) as transcribe:
            texts = [transcribe(recording.samples(args.data)) for recording in recordings]
        for score in scores(path.name, recordings, texts):
            rates = f"{score.hypothesis:.2%} | {score.transcript:.2%}"
            print(
                f"| {score.model} | {score.subset} | {score.recordings} | {score.words} | {rates} |"
            )
            report["scores"].append(asdict(score))
        report["texts"][path.name] = [
            {"groups": [*r.groups], "said": r.text, "hypothesis": t[0], "text": t[1]}
            for r, t in zip(recordings, texts, strict=True)
        ]
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
