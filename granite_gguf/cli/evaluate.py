"""``granite-gguf eval``: error rates over a set of recordings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from granite_gguf.cli.console import counting_progress, print_error, print_note, print_result
from granite_gguf.cli.model_names import local_model
from granite_gguf.cli.options import AsJson, Device, Kernels, Threads
from granite_gguf.cli.options import Model as ModelOption
from granite_gguf.errors import printable
from granite_gguf.evaluation.manifest import read_items
from granite_gguf.evaluation.results import ResultsFile
from granite_gguf.evaluation.run import Evaluation, Row, expected_texts, score_each
from granite_gguf.evaluation.scoring import Scorer
from granite_gguf.model import load
from granite_gguf.placing.kernel_choice import AUTO


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
    expected = expected_texts(manifest, items, against)
    rows: list[Row] = []
    file = local_model(model)
    with load(file, threads=threads, device=device, kernels=kernels) as loaded:
        results = ResultsFile(output, file)
        resumed = sum(results.find(item) is not None for item in items)
        if resumed:
            print_note(f"{resumed} of {len(items)} results are taken from {output}")
        with counting_progress("evaluating", len(items)) as progress:
            for row in score_each(loaded, items, expected, results, scorer, language):
                rows.append(row)
                if row.result.error:
                    print_error(row.result.error)
                progress(len(rows))
    found = Evaluation(rows)
    print_result(_as_json(found) if as_json else _as_text(found))
    if found.total()["failed"]:
        raise typer.Exit(1)


def _as_json(found: Evaluation) -> str:
    values = {"total": found.total(), "files": found.files()}
    return json.dumps(values, ensure_ascii=False, indent=2)


def _as_text(found: Evaluation) -> str:
    lines = [f"{'WER':>8}  {'CER':>8}  {'seconds':>8}  {'speed':>8}  file"]
    for figures in found.files():
        failed = "  (failed)" if figures["error"] else ""
        lines.append(f"{_line(figures)}  {printable(figures['audio'])}{failed}")
    whole = found.total()
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
