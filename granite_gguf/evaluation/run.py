"""A model over a set of recordings: each is transcribed, or taken from results, and scored."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path

from granite_gguf.errors import AudioError, InputError
from granite_gguf.evaluation.figures import Evaluation, Row
from granite_gguf.evaluation.manifest import Item, read_items
from granite_gguf.evaluation.results import Result, ResultsFile, read_results, read_transcripts
from granite_gguf.evaluation.scoring import Scorer, Scoring
from granite_gguf.model import Model
from granite_gguf.transcript import Transcript


def evaluate(
    model: Model,
    manifest: str | PathLike[str],
    *,
    results: str | PathLike[str] | None = None,
    against: str | PathLike[str] | None = None,
    language: str = "en",
    scoring: str = Scoring.WHISPER,
) -> Evaluation:
    """Word and character error rates over a set of recordings.

    Needs the extra ``eval``.

    Args:
        model: transcribes.
        manifest: JSON lines (audio, text, language, speaker) or TSV of the same columns, with paths
            relative to the file's folder and inside it, or absolute; or a folder of audio with a
            .txt beside each file.
        results: a file of results as JSON lines, to go on with and to add to.
        against: transcripts, or results of another model, in place of the manifest's texts.
        language: of recordings whose manifest does not say; ``en`` has a normaliser of its own.
        scoring: ``leaderboard`` counts as the Open ASR Leaderboard does, ``whisper`` after
            Whisper's normalisers, ``plain`` words as they stand.

    Raises:
        InputError: the manifest or the transcripts cannot be used, or there is no such scoring.
        MissingExtraError: the extra is not installed.
        OutputError: the results are of another model or rounding, or cannot be written.

    >>> texts = Path("texts.tsv")
    >>> _ = texts.write_text("audio\\ttext\\nspeech.wav\\t" + model.transcribe("speech.wav").text)
    >>> evaluate(model, texts).total()["wer"]
    0.0
    """
    scorer = Scorer(scoring)
    dataset = read_dataset(
        Path(manifest), scorer, None if against is None else Path(against), language
    )
    path = None if results is None else Path(results)
    known = ResultsFile(path, model.file.path, dataset.name, model.rounding)
    rows = list(score_each(model, dataset, known, scorer))
    return dataset.evaluation(rows, model.file.path.name, scorer)


@dataclass(frozen=True)
class Dataset:
    """What is to be scored.

    Attributes:
        name: that of the manifest or folder.
        items: the recordings, each with the text it is scored against, and its language.
        left_out: how many the rule does not score.
    """

    name: str
    items: Sequence[Item]
    left_out: int

    @classmethod
    def of(cls, name: str, items: Iterable[Item], scorer: Scorer, language: str) -> Dataset:
        """Without the recordings that the rule does not score.

        Raises:
            InputError: there is no other.
        """
        known = [replace(item, language=item.language or language) for item in items]
        scored = [
            item for item in known if not scorer.ignores(item.text or "", item.language or "")
        ]
        if not scored:
            raise InputError(f"{name}: has no text that is to be scored")
        return cls(name, scored, len(known) - len(scored))

    def evaluation(self, rows: Sequence[Row], model: str, scorer: Scorer) -> Evaluation:
        """What a model made of it."""
        return Evaluation(rows, model, self.name, self.left_out, scorer.versions)


def read_dataset(
    manifest: Path, scorer: Scorer, against: Path | None = None, language: str = "en"
) -> Dataset:
    """The recordings of a manifest, with what is said in each by it or by other transcripts.

    Raises:
        InputError: it cannot be used, or a recording has no text.
    """
    items = read_items(manifest)
    if against is not None:
        texts = read_transcripts(against, items)
        items = [replace(item, text=texts[item.path]) for item in items]
    lacking = [item.name for item in items if item.text is None]
    if lacking:
        more = f" and {len(lacking) - 5} more" if lacking[5:] else ""
        raise InputError(
            f"{manifest}: has no text for {', '.join(lacking[:5])}{more}; add them, or compare "
            "with --against"
        )
    place = manifest.resolve()
    name = place.name if place.is_dir() else place.stem
    return Dataset.of(name, items, scorer, language)


def score_each(
    model: Model, dataset: Dataset, results: ResultsFile, scorer: Scorer
) -> Iterator[Row]:
    """Transcribe what has no result yet, and score each recording when it is there.

    The seconds of a result are those since the one before: several recordings are at work, and the
    sum is what all of them took.
    """
    known = {item.path: results.find(item) for item in dataset.items}
    made = model.transcribe_many(item.path for item in dataset.items if known[item.path] is None)
    before = time.perf_counter()
    for item in dataset.items:
        result = known[item.path]
        if result is None:
            transcript = next(made)
            now = time.perf_counter()
            result = _result(transcript, now - before)
            before = now
        results.add(item, result)
        yield _row(item, result, scorer)
    results.finish()


def rescore(path: Path, scorer: Scorer, language: str = "en") -> Evaluation:
    """Score results that were written before, by this package or another system.

    Args:
        path: the file, as :func:`granite_gguf.evaluation.results.read_results` takes it.
        scorer: counts the errors.
        language: of recordings for which the file does not say.

    Raises:
        InputError: the file cannot be used.
    """
    recorded = read_results(path)
    results = {item.name: result for item, result in recorded.results}
    items = [item for item, _ in recorded.results]
    dataset = Dataset.of(recorded.dataset, items, scorer, language)
    rows = [_row(item, results[item.name], scorer) for item in dataset.items]
    return dataset.evaluation(rows, recorded.model, scorer)


def _row(item: Item, result: Result, scorer: Scorer) -> Row:
    return Row(item, result, scorer.score(item.text or "", result.text, item.language or ""))


def _result(found: Transcript | Exception, seconds: float) -> Result:
    if isinstance(found, Transcript):
        return Result(found.text, found.duration, seconds)
    if isinstance(found, AudioError):
        return Result("", 0.0, seconds, str(found))
    raise found
