"""A model over a set of recordings: each is transcribed, or taken from results, and scored."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from os import PathLike
from pathlib import Path
from typing import Any

from granite_gguf.errors import AudioError, InputError
from granite_gguf.evaluation.manifest import Item, read_items
from granite_gguf.evaluation.results import Result, ResultsFile, identity, read_transcripts
from granite_gguf.evaluation.scoring import Score, Scorer, total
from granite_gguf.model import Model


@dataclass(frozen=True)
class Row:
    """One recording with its result and score."""

    item: Item
    result: Result
    score: Score


@dataclass(frozen=True)
class Evaluation:
    """What a model makes of a set of recordings.

    Attributes:
        rows: one for each recording, in the manifest's order; one that failed has an error, and
            counts as an empty transcript.
    """

    rows: Sequence[Row]

    def total(self) -> dict[str, Any]:
        """Of all recordings: ``wer`` and ``cer`` as fractions, counts, seconds, failed files."""
        return {
            "files": len(self.rows),
            "failed": [row.item.name for row in self.rows if row.result.error],
            **_figures(total([row.score for row in self.rows]), [row.result for row in self.rows]),
        }

    def files(self) -> list[dict[str, Any]]:
        """The same of each recording, with its text and error."""
        return [
            {
                "audio": row.item.name,
                "text": row.result.text,
                "error": row.result.error,
                **_figures(row.score, [row.result]),
            }
            for row in self.rows
        ]


def evaluate(
    model: Model,
    manifest: str | PathLike[str],
    *,
    results: str | PathLike[str] | None = None,
    against: str | PathLike[str] | None = None,
    language: str = "en",
) -> Evaluation:
    """Word and character error rates over a set of recordings, after Whisper's normalisers.

    Needs the extra ``eval``.

    Args:
        model: transcribes.
        manifest: JSON lines (audio, text, language) or TSV of the same columns, with paths relative
            to the file's folder and inside it, or absolute; or a folder of audio with a .txt beside
            each file.
        results: a file of results as JSON lines, to go on with and to add to.
        against: transcripts, or results of another model, in place of the manifest's texts.
        language: of recordings whose manifest does not say; ``en`` has a normaliser of its own.

    Raises:
        InputError: the manifest or the transcripts cannot be used.
        MissingExtraError: the extra is not installed.
        OutputError: the results are of another model, or cannot be written.

    >>> texts = Path("texts.tsv")
    >>> _ = texts.write_text("audio\\ttext\\nspeech.wav\\t" + model.transcribe("speech.wav").text)
    >>> evaluate(model, texts).total()["wer"]
    0.0
    """
    scorer = Scorer()
    items = read_items(Path(manifest))
    expected = expected_texts(Path(manifest), items, None if against is None else Path(against))
    known = ResultsFile(None if results is None else Path(results), model.file.path)
    return Evaluation(list(score_each(model, items, expected, known, scorer, language)))


def expected_texts(manifest: Path, items: Sequence[Item], against: Path | None) -> dict[Path, str]:
    """What is said in each recording, by the manifest or by other transcripts.

    Raises:
        InputError: a recording has no text.
    """
    if against is not None:
        return read_transcripts(against, items)
    lacking = [item.name for item in items if item.text is None]
    if lacking:
        more = f" and {len(lacking) - 5} more" if lacking[5:] else ""
        raise InputError(
            f"{manifest}: has no text for {', '.join(lacking[:5])}{more}; add them, or compare "
            "with --against"
        )
    return {item.path: item.text or "" for item in items}


def score_each(
    model: Model,
    items: Sequence[Item],
    expected: Mapping[Path, str],
    results: ResultsFile,
    scorer: Scorer,
    language: str,
) -> Iterator[Row]:
    """Transcribe what has no result yet, and score each recording when it is there."""
    for item in items:
        result = results.find(item)
        if result is None:
            result = _transcribe(model, item, results)
            results.add(result)
        score = scorer.score(expected[item.path], result.text, item.language or language)
        yield Row(item, result, score)


def _transcribe(model: Model, item: Item, results: ResultsFile) -> Result:
    started = time.perf_counter()
    text, duration, problem = "", 0.0, None
    try:
        transcript = model.transcribe(item.path)
        text, duration = transcript.text, transcript.duration
    except AudioError as error:
        problem = str(error)
    return Result(
        audio=str(item.path),
        audio_identity=identity(item.path),
        model=results.model.name,
        model_identity=results.model_identity,
        text=text,
        duration=duration,
        seconds=time.perf_counter() - started,
        error=problem,
    )


def _figures(score: Score, results: Sequence[Result]) -> dict[str, Any]:
    duration = sum(result.duration for result in results)
    seconds = sum(result.seconds for result in results)
    return {
        "wer": score.words.rate if isfinite(score.words.rate) else None,
        "cer": score.characters.rate if isfinite(score.characters.rate) else None,
        "word_errors": score.words.errors,
        "words": score.words.units,
        "character_errors": score.characters.errors,
        "characters": score.characters.units,
        "exact": score.exact,
        "duration": duration,
        "seconds": seconds,
        "real_time_factor": duration / seconds if seconds else 0.0,
    }
