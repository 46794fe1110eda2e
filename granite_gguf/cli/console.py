"""What the commands share for talking to a person."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TextIO

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as RichProgress
from rich.text import Text

from granite_gguf.errors import AudioWarning, printable
from granite_gguf.files import Progress, silent

stdout = Console(highlight=False, soft_wrap=True, emoji=False)
stderr = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)


def print_error(message: str) -> None:
    """An error on stderr, one line, for a person and for ``grep``."""
    _print_aside(f"[bold red]error:[/] {escape(printable(message))}")


def print_note(message: str) -> None:
    """A remark on stderr, one line."""
    _print_aside(escape(printable(message)))


def _print_aside(line: str) -> None:
    # Where stderr itself cannot be written, there is nobody left to tell; the results still matter.
    with suppress(OSError):
        stderr.print(line)


def print_result(text: str, *, end: str = "\n") -> None:
    """Text on stdout, as it is; a terminal gets no control characters but ends of lines and tabs.

    Raises:
        OutputError: it cannot be written.
    """
    if sys.stdout.isatty():
        text = "".join(c if c in "\n\t" else printable(c) for c in text)
    sys.stdout.write(text + end)
    sys.stdout.flush()


@contextmanager
def telling_warnings(*, quiet: bool) -> Iterator[None]:
    """Print what should be known of a recording, as a remark."""

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if issubclass(category, AudioWarning):
            print_note(f"note: {message}")
        else:
            other(message, category, filename, lineno, file, line)

    with warnings.catch_warnings():
        other = warnings.showwarning
        warnings.simplefilter("ignore" if quiet else "default", AudioWarning)
        warnings.showwarning = show
        yield


@contextmanager
def writing_progress(label: str) -> Iterator[Progress]:
    """A progress bar for a file being written; nothing where stderr is no terminal."""
    if not stderr.is_terminal:
        yield silent
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with RichProgress(*columns, console=stderr, transient=True) as bar:
        task = bar.add_task(escape(printable(label)), total=None)

        def report(_name: str, written: int, total: int) -> None:
            bar.update(task, completed=written, total=total)

        yield report


@contextmanager
def counting_progress(label: str, total: int) -> Iterator[Callable[[float], None]]:
    """A progress bar over a number of things; nothing where stderr is no terminal."""
    if not stderr.is_terminal:
        yield lambda _done: None
        return
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    )  # fmt: skip
    with RichProgress(*columns, console=stderr, transient=True) as bar:
        task = bar.add_task(escape(printable(label)), total=total)
        yield lambda done: bar.update(task, completed=done)


@dataclass(frozen=True)
class AudioProgress:
    """Told of the audio that is done.

    Attributes:
        name: is told which recording is at work.
        advance: is told of more seconds done.
        expect: is told by how many seconds more than before, or fewer, there are.
        aside: makes room on the terminal for a result printed within.
    """

    name: Callable[[str], None]
    advance: Callable[[float], None]
    expect: Callable[[float], None]
    aside: Callable[[], AbstractContextManager[None]]


def _ignore(_told: object) -> None:
    pass


def _speed(task: Task) -> float | None:
    """Seconds of audio by second of work, from the first on: results come in lumps."""
    return task.completed / task.elapsed if task.completed and task.elapsed else None


class _SpeedColumn(ProgressColumn):
    """How many seconds of audio a second of work does."""

    def render(self, task: Task) -> Text:
        """The speed as a multiple of real time."""
        speed = _speed(task)
        return Text("" if speed is None else f"{speed:.1f}x")


class _LeftColumn(ProgressColumn):
    """How long it will go on as it went so far."""

    def render(self, task: Task) -> Text:
        """Hours, minutes and seconds."""
        speed = _speed(task)
        if speed is None or task.total is None:
            return Text("-:--:--")
        return Text(str(timedelta(seconds=round(max(0.0, task.total - task.completed) / speed))))


@contextmanager
def audio_progress(
    total: Callable[[], float | None], *, quiet: bool = False
) -> Iterator[AudioProgress]:
    """A progress bar over seconds of audio; nothing where stderr is no terminal.

    ``total`` tells the seconds in all, or None, and is only asked where it is shown.
    """
    if quiet or not stderr.is_terminal:
        yield AudioProgress(_ignore, _ignore, _ignore, nullcontext)
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f} s"),
        _SpeedColumn(),
        TimeElapsedColumn(),
        _LeftColumn(),
    )
    # Not redirected: results belong to stdout, and the bar's console is stderr.
    bar = RichProgress(
        *columns, console=stderr, transient=True, redirect_stdout=False, redirect_stderr=False
    )

    @contextmanager
    def aside() -> Iterator[None]:
        bar.stop()
        yield
        stdout.file.flush()
        bar.start()

    with bar:
        task = bar.add_task("", total=None)
        expected = total()
        bar.reset(task, total=expected)

        def expect(seconds: float) -> None:
            nonlocal expected
            if expected is not None:
                expected += seconds
                bar.update(task, total=expected)

        yield AudioProgress(
            name=lambda name: bar.update(task, description=escape(printable(name))),
            advance=lambda seconds: bar.update(task, advance=seconds),
            expect=expect,
            aside=aside,
        )


def kernel_lines(kernels: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    """A line for each stage: how many matrices each kernel multiplies with."""
    for stage, counts in kernels.items():
        counted = ", ".join(f"{count} {name}" for name, count in counts.items())
        yield f"{stage} matrices: {counted}"
