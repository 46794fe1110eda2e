"""``granite-gguf transcribe``: recordings to text, subtitles and JSON."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from granite_gguf.cli.background import in_background, leave
from granite_gguf.cli.console import audio_progress, kernel_lines, print_error, print_note
from granite_gguf.cli.inputs import Recording, find_recordings
from granite_gguf.cli.model_names import MODEL_HELP, local_model
from granite_gguf.cli.outputs import DEFAULT_TEMPLATE, Targets, plan_targets
from granite_gguf.demo import DEMO_MODEL, DEMO_NOTE
from granite_gguf.errors import InputError
from granite_gguf.formats import FORMATS, Shape
from granite_gguf.model import Model, load
from granite_gguf.passes import Options
from granite_gguf.placing.kernel_choice import Precision
from granite_gguf.sound.reading import duration_of
from granite_gguf.transcript import Segment, Transcript
from granite_gguf.transcription.recordings import check_options

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130

FormatName = Enum("FormatName", {name: name for name in FORMATS}, type=str)  # type: ignore[misc]


@dataclass
class _Job:
    """What was asked for, and what became of it."""

    recordings: Sequence[Recording]
    formats: Sequence[str]
    shape: Shape
    targets: Targets | None  # None: to stdout
    options: Options
    channel: int | None
    quiet: bool
    verbose: bool
    failed: list[str] = field(default_factory=list)
    audio_seconds: float = 0.0


def transcribe(
    audio: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="AUDIO...",
            help="Files, folders, patterns like '*.wav', or '-' for standard input. WAV, FLAC, "
            "OGG, Opus, MP3, AIFF; with the extra `av` also MP4, M4A, WebM and more.",
            show_default=False,
        ),
    ] = None,
    *,
    model: Annotated[
        str | None,
        typer.Option(
            "-m",
            "--model",
            help=f"{MODEL_HELP} By default this package's small demonstration model.",
            envvar="GRANITE_GGUF_MODEL",
            show_default=False,
        ),
    ] = None,
    batch: Annotated[
        Path | None,
        typer.Option(
            metavar="LIST",
            help="A text file naming a recording on each line.",
            rich_help_panel="Input",
            show_default=False,
        ),
    ] = None,
    channel: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Take this channel, 1 the first; otherwise all are mixed.",
            rich_help_panel="Input",
            show_default=False,
        ),
    ] = None,
    chunk_seconds: Annotated[
        float | None,
        typer.Option(
            metavar="S",
            help="Cut audio longer than this at a pause. Otherwise what fits in one pass is one "
            "(about four minutes), and longer audio is cut every 60 s or less.",
            rich_help_panel="Input",
            show_default=False,
        ),
    ] = None,
    output_format: Annotated[
        list[FormatName] | None,
        typer.Option(
            "-f",
            "--output-format",
            metavar="FORMAT",
            help="txt (default), json, jsonl, srt, vtt, lrc, tsv or csv; again for several.",
            rich_help_panel="Output",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="The same as -f jsonl.", rich_help_panel="Output"),
    ] = False,
    word_times: Annotated[
        bool,
        typer.Option(
            "--word-times",
            help="Add each word's times and probability to JSON.",
            rich_help_panel="Output",
        ),
    ] = False,
    max_line_width: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help=f"Characters of a line of subtitles; {Shape.width} by default.",
            rich_help_panel="Output",
            show_default=False,
        ),
    ] = None,
    max_lines: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help=f"Lines of a subtitle; {Shape.lines} by default.",
            rich_help_panel="Output",
            show_default=False,
        ),
    ] = None,
    output_dir: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output-dir",
            metavar="DIR",
            help="Write files there, instead of to standard output.",
            rich_help_panel="Output",
            show_default=False,
        ),
    ] = None,
    output_template: Annotated[
        str | None,
        typer.Option(
            metavar="T",
            help=f"Names of the files, '{DEFAULT_TEMPLATE}' by default; also {{name}}, {{parent}} "
            "and {index}.",
            rich_help_panel="Output",
            show_default=False,
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace existing files.", rich_help_panel="Output")
    ] = False,
    quiet: Annotated[
        bool,
        typer.Option(
            "-q", "--quiet", help="Only errors on stderr.", rich_help_panel="Output"
        ),
    ] = False,
    verbose: Annotated[
        bool,
        typer.Option(
            "-v", "--verbose", help="Tell times of each file.", rich_help_panel="Output"
        ),
    ] = False,
    threads: Annotated[
        int | None,
        typer.Option(
            "-t",
            "--threads",
            min=1,
            metavar="N",
            help="CPU threads; by default one for each available core.",
            rich_help_panel="Computation",
            show_default=False,
        ),
    ] = None,
    device: Annotated[
        str,
        typer.Option(
            "-d",
            "--device",
            metavar="NAME",
            help="'auto', 'cpu' or a device that `granite-gguf doctor` names.",
            envvar="GRANITE_GGUF_DEVICE",
            rich_help_panel="Computation",
        ),
    ] = "auto",
    precision: Annotated[
        Precision,
        typer.Option(
            help="'exact' multiplies with the file's own types, 'fast' may round further where "
            "the processor has a faster kernel.",
            rich_help_panel="Computation",
        ),
    ] = Precision.EXACT,
    low_memory: Annotated[
        bool,
        typer.Option(
            "--low-memory",
            help="Keep one stage's weights in memory at a time; a little slower.",
            rich_help_panel="Computation",
        ),
    ] = False,
) -> None:  # fmt: skip
    """Transcribe recordings of any length.

    The model finds the language itself. The text of one file is printed as it
    is made; of several, each line starts with the file's name and a tab. A file
    that fails is named on stderr, the others are still transcribed, and the
    exit code is 1.
    """
    formats = _formats(output_format, as_json)
    recordings = find_recordings(audio or [], batch)
    targets = None
    if output_dir is not None:
        template = output_template or DEFAULT_TEMPLATE
        targets = plan_targets(recordings, formats, output_dir, template, force=force)
    else:
        _check_stdout(recordings, formats, force=force, template=output_template)
    if quiet and verbose:
        raise InputError("--quiet and --verbose contradict each other: choose one")
    if word_times and not any(name.startswith("json") or FORMATS[name].needs_words
                              for name in formats):  # fmt: skip
        raise InputError("--word-times needs a format that has them, such as -f json")
    timed = word_times or any(FORMATS[name].needs_words for name in formats)
    options = Options(chunk_seconds, timed)
    shape = _shape(max_line_width, max_lines, formats)
    job = _Job(recordings, formats, shape, targets, options, channel, quiet, verbose)
    if model is None:
        print_note(DEMO_NOTE)
    file = DEMO_MODEL if model is None else local_model(model, quiet=quiet)
    loaded = load(file, threads=threads, device=device, precision=precision, low_memory=low_memory)
    if verbose:
        for line in kernel_lines(loaded.kernels):
            print_note(line)
    try:
        check_options(loaded.hparams, options)
        _transcribe_all(loaded, job)
    except KeyboardInterrupt:
        leave(EXIT_INTERRUPTED)
    except SystemExit as error:  # a signal to terminate
        leave(error.code if isinstance(error.code, int) else EXIT_FAILED)
    except BaseException:
        loaded.close()
        raise
    loaded.close()
    if job.failed:
        raise typer.Exit(EXIT_FAILED)


def _formats(names: Sequence[FormatName] | None, as_json: bool) -> list[str]:
    if as_json and names:
        raise InputError("--json is the same as -f jsonl: give only --output-format")
    if as_json:
        return ["jsonl"]
    return list(dict.fromkeys(name.value for name in names)) if names else ["txt"]


def _shape(width: int | None, lines: int | None, formats: Sequence[str]) -> Shape:
    if (width, lines) != (None, None) and not any(FORMATS[name].needs_words for name in formats):
        raise InputError(
            "--max-line-width and --max-lines belong to subtitles: choose a format such as -f srt"
        )
    return Shape(Shape.width if width is None else width, Shape.lines if lines is None else lines)


def _check_stdout(
    recordings: Sequence[Recording], formats: Sequence[str], *, force: bool, template: str | None
) -> None:
    if len(formats) > 1:
        raise InputError(f"{', '.join(formats)}: several formats need an --output-dir")
    if len(recordings) > 1 and not FORMATS[formats[0]].one_line:
        raise InputError(f"{formats[0]} of {len(recordings)} recordings needs an --output-dir")
    if force or template is not None:
        raise InputError("--force and --output-template belong to --output-dir, which is not given")


def _transcribe_all(model: Model, job: _Job) -> None:
    started = time.perf_counter()
    if job.verbose:
        print_note(f"{model.file.path} on {model.device.description}, {model.threads} threads")
    # The text of a single recording need not wait for its end.
    at_once = job.targets is None and len(job.recordings) == 1 and job.formats == ["txt"]
    with audio_progress(lambda: _total_seconds(job.recordings), quiet=job.quiet) as progress:
        progress.name(job.recordings[0].name)
        sources = (recording.open() for recording in job.recordings)
        events = model.transcribe_events(sources, job.options, channel=job.channel)
        for event in in_background(events):
            recording = job.recordings[event.index]
            if isinstance(event.result, Segment):
                progress.advance(event.result.end - event.result.start)
                if at_once:
                    with progress.aside():
                        typer.echo(event.result.text)
                continue
            with progress.aside():
                if isinstance(event.result, Transcript):
                    _deliver(event.index, recording, event.result, job)
                else:
                    print_error(_named(recording, event.result))
                    job.failed.append(recording.name)
            if event.index + 1 < len(job.recordings):
                progress.name(job.recordings[event.index + 1].name)
    if len(job.recordings) > 1 and not job.quiet:
        _summarise(job, time.perf_counter() - started)


def _named(recording: Recording, error: Exception) -> str:
    text = str(error)
    return text if recording.path is None or recording.name in text else f"{recording.name}: {text}"


def _deliver(index: int, recording: Recording, transcript: Transcript, job: _Job) -> None:
    job.audio_seconds += transcript.duration
    if job.verbose:
        passes = "1 pass" if len(transcript.segments) == 1 else f"{len(transcript.segments)} passes"
        stages = ", ".join(f"{k} {v:.2f}" for k, v in transcript.timings.items())
        print_note(
            f"{recording.name}: {transcript.duration:.1f} s of audio in {passes}, "
            f"{transcript.real_time_factor:.1f}x real time; seconds: {stages}"
        )
    for name in job.formats:
        if job.targets is not None:
            text = FORMATS[name].render(recording.name, transcript, job.shape)
            path = job.targets.write(index, name, text)
            if job.verbose:
                print_note(f"{path}: written")
        elif name != "txt":
            typer.echo(FORMATS[name].render(recording.name, transcript, job.shape), nl=False)
        elif len(job.recordings) > 1:
            line = transcript.text.translate(dict.fromkeys(map(ord, "\r\n\t"), " "))
            typer.echo(f"{recording.name}\t{line}")


def _total_seconds(recordings: Sequence[Recording]) -> float | None:
    """All the audio together, or None where a recording does not tell its length."""
    total = 0.0
    for recording in recordings:
        path = recording.path
        # A pipe can be read only once, so it is not asked.
        seconds = duration_of(path) if path is not None and path.is_file() else None
        if seconds is None:
            return None
        total += seconds
    return total


def _summarise(job: _Job, seconds: float) -> None:
    done = len(job.recordings) - len(job.failed)
    speed = job.audio_seconds / seconds if seconds else 0.0
    print_note(
        f"{done} of {len(job.recordings)} recordings transcribed: {job.audio_seconds:.1f} s of "
        f"audio in {seconds:.1f} s, {speed:.1f}x real time"
    )
    for name in job.failed:
        print_note(f"failed: {name}")
