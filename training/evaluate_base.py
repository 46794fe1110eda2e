"""What the autoregressive miniature's GGUF files make of the held-out recordings.

python -m training.evaluate_base DATA RUN/granite-speech-demo-F16.gguf ...

Words are counted as they are written, with capitals and marks where the form has them; a
translation is compared with the only one that the grammar has. jiwer counts the errors. Drafts are
switched off once, to see that no token changes.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import jiwer
import numpy as np
import numpy.typing as npt
import soundfile

import granite_gguf
from granite_gguf import Model, Transcript
from granite_gguf.transcription.options import TranscribeOptions
from training.evaluate import Recording, read_test
from training.forms import SPELLINGS, Forms

Sound = dict[str, npt.NDArray[np.float32]]  # samples at 16 kHz by the file's name

DRAFTED = ("raw", "punctuated", "keywords")


@dataclass
class Score:
    """What came of one form of the texts."""

    said: list[str] = field(default_factory=list)
    heard: list[str] = field(default_factory=list)
    groups: list[set[str]] = field(default_factory=list)
    keywords: int = 0
    spelled: int = 0  # of the keywords that are said, those spelled as asked
    tokens: int = 0
    guessed: int = 0
    accepted: int = 0
    steps: int = 0
    changed: int = 0  # texts with other tokens where drafts are off


@dataclass(frozen=True)
class Case:
    """A form that is asked of a recording, and the text as it should be."""

    recording: Recording
    text: str
    options: TranscribeOptions


def cases(recording: Recording, rng: random.Random) -> Iterator[tuple[str, Case]]:
    """Every form of a recording's text, by its name."""
    forms = Forms.of(recording.text)
    into: TranscribeOptions = {"task": "translate", "to": "es"}
    yield "raw", Case(recording, forms.raw, {"punctuation": False})
    yield "punctuated", Case(recording, forms.punctuated, {"punctuation": True})
    yield "Spanish", Case(recording, forms.spanish_raw, into)
    yield "Spanish, punctuated", Case(recording, forms.spanish, {**into, "punctuation": True})
    if forms.spelled:
        others = [word for word in SPELLINGS if word not in forms.spelled]
        keywords = [SPELLINGS[word] for word in (*forms.spelled, rng.choice(others))]
        rng.shuffle(keywords)
        text = " ".join(SPELLINGS.get(word, word) for word in forms.raw.split())
        yield "keywords", Case(recording, text, {"keywords": keywords})


def asked(
    model: Model, sound: Sound, wanted: list[Case], more: TranscribeOptions
) -> list[Transcript]:
    """The transcripts of cases, those with the same options together."""
    if all(case.options == wanted[0].options for case in wanted):
        every = [sound[case.recording.file] for case in wanted]
        options: TranscribeOptions = {**wanted[0].options, **more}
        return [_whole(found) for found in model.transcribe_many(every, **options)]
    return [
        model.transcribe(sound[case.recording.file], **{**case.options, **more}) for case in wanted
    ]


def _whole(found: Transcript | Exception) -> Transcript:
    if isinstance(found, Exception):
        raise found
    return found


def measured(model: Model, recordings: list[Recording], data: Path) -> dict[str, Score]:
    """Scores of all forms."""
    rng = random.Random(0)
    sound = {r.file: soundfile.read(data / r.file, dtype="float32")[0] for r in recordings}
    wanted: dict[str, list[Case]] = {}
    for recording in recordings:
        for name, case in cases(recording, rng):
            wanted.setdefault(name, []).append(case)
    return {name: _score(model, name, sound, found) for name, found in wanted.items()}


def _score(model: Model, name: str, sound: Sound, wanted: list[Case]) -> Score:
    score = Score()
    transcripts = asked(model, sound, wanted, {})
    for case, transcript in zip(wanted, transcripts, strict=True):
        score.said.append(case.text)
        score.heard.append(transcript.text)
        score.groups.append(set(case.recording.groups))
        for keyword in case.options.get("keywords", ()):
            if keyword in case.text.split():
                score.keywords += 1
                score.spelled += keyword in transcript.text.split()
        for segment in transcript.segments:
            if segment.decoding is not None:
                score.tokens += len(segment.token_ids)
                score.guessed += segment.decoding.guessed
                score.accepted += segment.decoding.accepted
                score.steps += segment.decoding.steps
    if name in DRAFTED:
        alone = asked(model, sound, wanted, {"draft": "off"})
        score.changed = sum(_ids(a) != _ids(b) for a, b in zip(transcripts, alone, strict=True))
    return score


def _ids(transcript: Transcript) -> list[int]:
    return [int(token) for segment in transcript.segments for token in segment.token_ids]


def lines(file: str, scores: dict[str, Score]) -> Iterator[str]:
    """A table of a file's scores, as Markdown."""
    yield f"| {file} | recordings | n | words | WER | all right | of the tokens drafted | steps |"
    yield "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    for name, score in scores.items():
        for group in dict.fromkeys(group for groups in score.groups for group in sorted(groups)):
            chosen = [
                (said, heard)
                for said, heard, groups in zip(score.said, score.heard, score.groups, strict=True)
                if group in groups
            ]
            said, heard = (list(column) for column in zip(*chosen, strict=True))
            words = sum(len(text.split()) for text in said)
            right = sum(a == b for a, b in chosen) / len(chosen)
            row = f"| {name} | {group} | {len(chosen)} | {words} | {jiwer.wer(said, heard):.2%} "
            row += f"| {right:.1%} | "
            if group == "all" and name in DRAFTED:
                row += (
                    f"{score.accepted / score.tokens:.1%} ({score.accepted} of {score.guessed} "
                    f"guesses; {score.changed} texts changed) | {score.steps} of {score.tokens}"
                )
            yield f"{row} |"
        if score.keywords:
            yield f"{score.spelled} of {score.keywords} keywords as asked"


def main() -> None:
    """Print the scores of each file, and write the texts where that is asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--json", type=Path, help="write the texts there")
    parser.add_argument("--recordings", type=int, help="only the first ones")
    args = parser.parse_args()
    texts = {}
    for path in args.files:
        with granite_gguf.load(path) as model:
            scores = measured(model, read_test(args.data)[: args.recordings], args.data)
        print("\n".join(lines(path.name, scores)))
        texts[path.name] = {
            name: list(zip(score.said, score.heard, strict=True)) for name, score in scores.items()
        }
    if args.json:
        args.json.write_text(json.dumps(texts, ensure_ascii=False, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
