"""What the commands share for talking to a person."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as RichProgress

from granite_gguf.gguf_writer import Progress, silent

stdout = Console(highlight=False, soft_wrap=True)
stderr = Console(stderr=True, highlight=False, soft_wrap=True)


def print_error(message: str) -> None:
    """An error on stderr, one line, for a person and for ``grep``."""
    stderr.print(f"[bold red]error:[/] {escape(message)}")


def print_note(message: str) -> None:
    """A remark on stderr."""
    stderr.print(escape(message))


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
        task = bar.add_task(escape(label), total=None)

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
        task = bar.add_task(escape(label), total=total)
        yield lambda done: bar.update(task, completed=done)


def megabytes(count: int) -> str:
    """A size in decimal units, as download pages give it."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
