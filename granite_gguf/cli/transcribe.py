"""``granite-gguf transcribe``: recordings to text, subtitles and JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from granite_gguf.cli.console import kernel_lines, print_note
from granite_gguf.cli.groups import command
from granite_gguf.cli.inputs import Recording, find_recordings, parse_shard, raw_format_of
from granite_gguf.cli.job import Job, check_failures_file, write_failures
from granite_gguf.cli.leaving import EXIT_FAILED, EXIT_INTERRUPTED, leave
from granite_gguf.cli.live import live_stdin
from granite_gguf.cli.model_names import asked_model, local_mmproj, local_model
from granite_gguf.cli.options import (
    INPUT,
    OUTPUT,
    Demo,
    Force,
    Loading,
    Mmproj,
    ModelOrDemo,
    WordTimes,
)
from granite_gguf.cli.outputs import DEFAULT_TEMPLATE, Existing, plan_targets
from granite_gguf.cli.wishes import Wishes
from granite_gguf.demo import DEMO_MODEL, DEMO_NOTE
from granite_gguf.errors import InputError
from granite_gguf.formats import FORMATS, Shape
from granite_gguf.model import Model
from granite_gguf.sound.sndfile import RAW_FORMATS
from granite_gguf.transcription.options import TranscribeOptions, divide

_input = partial(typer.Option, rich_help_panel=INPUT, show_default=False)
_output = partial(typer.Option, rich_help_panel=OUTPUT, show_default=False)

FormatName = Enum("FormatName", {name: name for name in FORMATS}, type=str)  # type: ignore[misc]


@command
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
    model: ModelOrDemo = None,
    demo: Demo = None,
    mmproj: Mmproj = None,
    batch: Annotated[
        Path | None,
        _input(
            metavar="LIST",
            help="A text file naming a recording on each line; '-' for one on standard input.",
        ),
    ] = None,
    shard: Annotated[
        str | None,
        _input(
            metavar="K/N",
            help="Of the recordings take every Nth, from the Kth: one part of N, for N machines.",
        ),
    ] = None,
    channel: Annotated[
        int | None,
        _input(min=1, metavar="N", help="Take this channel, 1 the first; otherwise all are mixed."),
    ] = None,
    track: Annotated[
        int | None,
        _input(
            min=1, metavar="N", help="Take this audio track of a video, 1 the first, as by default."
        ),
    ] = None,
    live: Annotated[
        bool,
        _input(
            "--live",
            help="Standard input is being spoken: show at once, in the terminal's last line, what "
            "the encoder alone hears. Samples are s16le at 16,000 Hz, or as --raw-rate says.",
        ),
    ] = False,
    raw_rate: Annotated[
        int | None, _input(metavar="HZ", help="Read samples without a header, so many a second.")
    ] = None,
    raw_format: Annotated[
        str | None,
        _input(metavar="F", help=f"Their form: {', '.join(RAW_FORMATS)}; s16le by default."),
    ] = None,
    raw_channels: Annotated[
        int | None, _input(metavar="N", help="How many channels of them take turns; 1 by default.")
    ] = None,
    output_format: Annotated[
        list[FormatName] | None,
        _output(
            "-f",
            "--output-format",
            metavar="FORMAT",
            help="txt (default), json, jsonl, srt, vtt, lrc, tsv or csv; again for several.",
        ),
    ] = None,
    as_json: Annotated[bool, _output("--json", help="The same as -f jsonl.")] = False,
    word_times: WordTimes = False,
    max_line_width: Annotated[
        int | None,
        _output(metavar="N", help=f"Characters of a line of subtitles; {Shape.width} by default."),
    ] = None,
    max_lines: Annotated[
        int | None, _output(metavar="N", help=f"Lines of a subtitle; {Shape.lines} by default.")
    ] = None,
    output_dir: Annotated[
        Path | None,
        _output(
            "-o",
            "--output-dir",
            metavar="DIR",
            help="Write files there, instead of to standard output.",
        ),
    ] = None,
    output_template: Annotated[
        str | None,
        _output(
            metavar="T",
            help=f"Names of the files, '{DEFAULT_TEMPLATE}' by default; also {{name}}, {{parent}} "
            "and {index}.",
        ),
    ] = None,
    force: Force = False,
    skip_existing: Annotated[
        bool,
        _output(
            "--skip-existing",
            help="Leave out recordings whose files are there, to go on with an interrupted run.",
        ),
    ] = False,
    failures: Annotated[
        Path | None, _output(metavar="FILE", help="List what failed there, and why, as JSON lines.")
    ] = None,
    quiet: Annotated[bool, _output("-q", "--quiet", help="Only errors on stderr.")] = False,
    verbose: Annotated[bool, _output("-v", "--verbose", help="Tell times of each file.")] = False,
    wishes: Wishes,
    loading: Loading,
) -> None:
    """Transcribe recordings of any length.

    The model finds the language itself. The text of one file is printed as it
    is made; of several, each line starts with the file's name and a tab. A file
    that fails is named on stderr, the others are still transcribed, and the
    exit code is 1.
    """
    model = asked_model(model, demo and demo.value)
    formats = _formats(output_format, as_json)
    recordings = find_recordings(audio or [], batch)
    if quiet and verbose:
        raise InputError("--quiet and --verbose contradict each other: choose one")
    if force and skip_existing:
        raise InputError("--force and --skip-existing contradict each other: choose one")
    targets = None
    if output_dir is not None:
        existing = Existing.REPLACE if force else Existing.REFUSE
        existing = Existing.SKIP if skip_existing else existing
        template = output_template or DEFAULT_TEMPLATE
        targets = plan_targets(recordings, formats, output_dir, template, existing=existing)
    else:
        _check_stdout(recordings, formats, {
            "--force": force,
            "--skip-existing": skip_existing,
            "--output-template": output_template is not None,
        })  # fmt: skip
    if word_times and not any(name.startswith("json") or FORMATS[name].needs_words
                              for name in formats):  # fmt: skip
        raise InputError("--word-times needs a format that has them, such as -f json")
    timed = word_times or any(FORMATS[name].needs_words for name in formats)
    asked: TranscribeOptions = {
        "channel": channel,
        "track": track,
        "raw": raw_format_of(raw_rate, raw_format, raw_channels),
        "word_times": timed,
        "rough_times": not word_times,
        **wishes.options(),
    }
    _, take, options = divide({**asked})
    shape = _shape(max_line_width, max_lines, formats)
    chosen = parse_shard(shard).of(range(len(recordings))) if shard else range(len(recordings))
    if targets is not None:
        for place in chosen:
            targets.check(place)
        missing = [place for place in chosen if targets.missing(place)]
        if len(missing) < len(chosen) and not quiet:
            print_note(f"{len(chosen) - len(missing)} of {len(chosen)} recordings are done already")
        chosen = missing
    if failures is not None:
        check_failures_file(failures)
    to_files = bool(output_dir or failures)
    following = live_stdin(recordings, formats, take, asked, files=to_files) if live else None
    job = Job(recordings, chosen, formats, shape, targets, options, take, quiet, verbose)
    if chosen:
        pair = local_mmproj(mmproj, quiet=quiet)
        _run(job, model, partial(loading.load, mmproj=pair), following)
    if failures is not None:
        write_failures(failures, job.failures)
    if job.failures:
        raise typer.Exit(EXIT_FAILED)


def _run(
    job: Job,
    model: str | None,
    loading: Callable[[Path], Model],
    following: Callable[[Model], None] | None,
) -> None:
    if model is None and not job.quiet:
        print_note(DEMO_NOTE)
    file = DEMO_MODEL if model is None else local_model(model, quiet=job.quiet)
    loaded = loading(file)
    if job.verbose:
        for line in kernel_lines(loaded.kernels):
            print_note(line)
    try:
        loaded.check(job.options)
        if following is None:
            job.run(loaded)
        else:
            following(loaded)
    except KeyboardInterrupt:
        leave(EXIT_INTERRUPTED)
    except SystemExit as error:  # a signal to terminate
        leave(error.code if isinstance(error.code, int) else EXIT_FAILED)
    except BaseException:
        loaded.close()
        raise
    loaded.close()


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
    recordings: Sequence[Recording], formats: Sequence[str], for_files: Mapping[str, bool]
) -> None:
    if len(formats) > 1:
        raise InputError(f"{', '.join(formats)}: several formats need an --output-dir")
    if len(recordings) > 1 and not FORMATS[formats[0]].one_line:
        raise InputError(f"{formats[0]} of {len(recordings)} recordings needs an --output-dir")
    given = [name for name, there in for_files.items() if there]
    if given:
        raise InputError(f"{' and '.join(given)} without --output-dir, to which it belongs")
