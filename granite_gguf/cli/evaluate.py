"""``granite-gguf eval``: error rates over a set of recordings."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Annotated, Any

import typer

from granite_gguf.cli.console import counting_progress, print_error, print_note, print_result
from granite_gguf.cli.model_names import local_model
from granite_gguf.cli.options import AsJson, Device, Kernels, Threads
from granite_gguf.cli.options import Model as ModelOption
from granite_gguf.errors import AudioError, InputError, printable
from granite_gguf.evaluation.manifest import Item, read_items
from granite_gguf.evaluation.results import Result, ResultsFile, identity, read_transcripts
from granite_gguf.evaluation.scoring import Score, Scorer, total
from granite_gguf.model import Model, load
from granite_gguf.placing.kernel_choice import AUTO


@dataclass(frozen=True)
class Row:
    """One recording with its result and score."""

    item: Item
    result: Result
    score: Score


def evaluate(
    manifest: Annotated[
        Path,
        typer.Argument(
            help="JSON lines (audio, text, language) or TSV of the same columns, with paths "
            "relative to the file's folder and inside it, or absolute; or a folder of audio with "
            "a .txt beside each file."
        ),
    ],
    model: ModelOption,
    against: Annotated[
        Path | None,
        typer.Option(
            help="Compare with the texts of this results file, or output of `transcribe` (.jsonl "
            "if --json), instead of the manifest's."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="RESULTS.jsonl",
            help="Keep each result as it is made; what an earlier run left there is not computed "
            "again.",
        ),
    ] = None,
    language: Annotated[
        str,
        typer.Option(
            help="Of recordings whose manifest does not say: en has a normaliser of its own."
        ),
    ] = "en",
    as_json: AsJson = False,
    threads: Threads = None,
    device: Device = "auto",
    kernels: Kernels = AUTO,
) -> None:
    """Word and character error rates over a set of recordings.

    Texts are compared after Whisper's normalisers. A recording that fails is
    named on stderr, counts as an empty transcript, and makes the exit code 1.
    Needs the extra `eval`.
    """
    scorer = Scorer()
    items = read_items(manifest)
    expected = _expected(manifest, items, against)
    rows: list[Row] = []
    file = local_model(model)
    with load(file, threads=threads, device=device, kernels=kernels) as loaded:
        results = ResultsFile(output, file)
        resumed = sum(results.find(item) is not None for item in items)
        if resumed:
            print_note(f"{resumed} of {len(items)} results are taken from {output}")
        with counting_progress("evaluating", len(items)) as progress:
            for done, item in enumerate(items, start=1):
                result = results.find(item)
                if result is None:
                    result = _transcribe(loaded, item, results)
                    results.add(result)
                if result.error:
                    print_error(result.error)
                score = scorer.score(expected[item.path], result.text, item.language or language)
                rows.append(Row(item, result, score))
                progress(done)
    print_result(_as_json(rows) if as_json else _as_text(rows))
    if any(row.result.error for row in rows):
        raise typer.Exit(1)


def _expected(manifest: Path, items: list[Item], against: Path | None) -> dict[Path, str]:
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


def _total(rows: list[Row]) -> dict[str, Any]:
    return {
        "files": len(rows),
        "failed": [row.item.name for row in rows if row.result.error],
        **_figures(total([row.score for row in rows]), [row.result for row in rows]),
    }


def _as_json(rows: list[Row]) -> str:
    files = [
        {
            "audio": row.item.name,
            "text": row.result.text,
            "error": row.result.error,
            **_figures(row.score, [row.result]),
        }
        for row in rows
    ]
    return json.dumps({"total": _total(rows), "files": files}, ensure_ascii=False, indent=2)


def _as_text(rows: list[Row]) -> str:
    lines = [f"{'WER':>8}  {'CER':>8}  {'seconds':>8}  {'speed':>8}  file"]
    for row in rows:
        failed = "  (failed)" if row.result.error else ""
        figures = _line(_figures(row.score, [row.result]))
        lines.append(f"{figures}  {printable(row.item.name)}{failed}")
    whole = _total(rows)
    lines.append(f"{_line(whole)}  total")
    lines.append(
        f"\n{whole['files']} files, {len(whole['failed'])} failed, {whole['exact']} equal "
        f"byte for byte; {whole['word_errors']} errors in {whole['words']} words, "
        f"{whole['character_errors']} in {whole['characters']} characters; "
        f"{whole['duration']:.1f} s of audio in {whole['seconds']:.1f} s"
    )
    return "\n".join(lines)


def _line(figures: dict[str, Any]) -> str:
    rates = [f"{rate:.2%}" if rate is not None else "inf" for rate in
             (figures["wer"], figures["cer"])]  # fmt: skip
    speed = f"{figures['real_time_factor']:.1f}x"
    return f"{rates[0]:>8}  {rates[1]:>8}  {figures['seconds']:>8.2f}  {speed:>8}"
