"""Live speech in a terminal: final text as lines of results, the interim text below them."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import BinaryIO

from granite_gguf.cli.console import print_result, stderr
from granite_gguf.cli.inputs import Recording
from granite_gguf.errors import InputError, printable
from granite_gguf.live import Live
from granite_gguf.model import Model
from granite_gguf.sound.reading import Selection
from granite_gguf.sound.sndfile import RawFormat
from granite_gguf.transcription.options import TranscribeOptions

_USUAL = RawFormat(16_000)
_WIDTH = 80
_INTERIM_SECONDS = 0.3
_AT_ONCE = 1 << 14  # bytes
_BEHIND_SECONDS = 0.05
_CLEAR = "\r\x1b[K"


def follow(live: Live) -> None:
    """Print each final text as a line, and keep the interim text on the last line of the terminal.

    Where standard error is no terminal there is no interim text. Returns at the end of the speech.
    """
    with _interims(live) as clear:
        for segment in live.job.segments():
            if segment.text.strip():
                clear()
                print_result(segment.text.strip())
                sys.stdout.flush()


def live_stdin(
    recordings: Sequence[Recording],
    formats: Sequence[str],
    take: Selection,
    options: TranscribeOptions,
    *,
    files: bool,
) -> Callable[[Model], None]:
    """What prints, with a model, what is being spoken on standard input, to its end.

    Raises:
        InputError: something else is asked for.
    """
    if [recording.path for recording in recordings] != [None]:
        raise InputError("--live takes what is being spoken from standard input: name '-' alone")
    if list(formats) != ["txt"] or files:
        raise InputError("--live prints text: leave formats and files out")
    raw = take.raw or _USUAL
    given = (take.channel, take.track, take.apart, raw.format, raw.channels)
    if given != (None, None, False, "s16le", 1):
        raise InputError("--live takes samples of one channel, as s16le")
    if take.clip is not None:
        raise InputError("--live takes all that is spoken: leave --clip out")

    def run(model: Model) -> None:
        live = Live(model, raw.rate, options=options)
        _write_from(sys.stdin.buffer, live)
        follow(live)

    return run


def _write_from(file: BinaryIO, live: Live) -> None:
    """Hand on what a file has to say, in a thread, as fast as it is taken up."""
    read_some = getattr(file, "read1", file.read)

    def work() -> None:
        try:
            while (data := read_some(_AT_ONCE)) and not live.job.done:
                while live.behind and not live.job.done:
                    time.sleep(_BEHIND_SECONDS)
                live.write(data)
        finally:
            live.end()

    threading.Thread(target=work, name="granite-gguf-live", daemon=True).start()


@contextmanager
def _interims(live: Live) -> Iterator[Callable[[], None]]:
    """Show interim texts inside the block; yields what clears their line."""
    if not stderr.is_terminal:
        yield lambda: None
        return
    over, lock = threading.Event(), threading.Lock()

    def show(text: str) -> None:
        stderr.file.write(_CLEAR + text)
        stderr.file.flush()

    def clear() -> None:
        with lock:
            show("")

    def work() -> None:
        spent = 0.0
        # No more than half of the time goes into what does not stay.
        while not over.wait(max(_INTERIM_SECONDS, spent)):
            started = time.monotonic()
            interim = live.interim()
            spent = time.monotonic() - started
            with lock:
                if interim is None or over.is_set() or interim.finals != len(live.job.finished):
                    continue
                # Some terminals tell no width.
                width = os.get_terminal_size(sys.stderr.fileno()).columns or _WIDTH
                show(printable(interim.text)[1 - width :])

    thread = threading.Thread(target=work, name="granite-gguf-interim", daemon=True)
    thread.start()
    try:
        yield clear
    finally:
        over.set()
        thread.join()
        clear()
