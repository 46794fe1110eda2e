"""The ``granite-gguf`` command line: one module per command.

Results go to stdout; progress, warnings and errors to stderr. Exit codes: 0 all done, 1 some
inputs failed, 2 wrong usage or a model that cannot be used, 130 interrupted.
"""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import Annotated, NoReturn

import typer

from granite_gguf._version import __version__
from granite_gguf.cli import (
    bench,
    convert,
    diff,
    doctor,
    evaluate,
    imatrix,
    inspect,
    models,
    quantize,
    reference,
    transcribe,
)
from granite_gguf.cli.console import print_error
from granite_gguf.errors import GraniteError

EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143

app = typer.Typer(
    name="granite-gguf",
    help="Granite Speech NAR from one GGUF file on ggml: speech to text without autoregression.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"granite-gguf {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    pass


app.command("transcribe")(transcribe.transcribe)
app.command("convert")(convert.convert)
app.command("quantize")(quantize.quantize)
app.command("imatrix")(imatrix.imatrix)
app.command("reference")(reference.reference)
app.command("diff")(diff.diff)
app.command("eval")(evaluate.evaluate)
app.command("bench")(bench.bench)
app.command("inspect")(inspect.inspect)
app.command("models")(models.models)
app.command("doctor")(doctor.doctor)


def _terminate(_signal: int, _frame: FrameType | None) -> NoReturn:
    # Unwinds the stack, so that temporary files are removed.
    raise SystemExit(EXIT_TERMINATED)


def main() -> None:
    """Run the command line; the console script's entry point."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        app()
    except GraniteError as error:
        print_error(str(error))
        sys.exit(EXIT_USAGE)
    except MemoryError as error:  # of numpy or of Python itself
        print_error(f"not enough memory: {error or 'an allocation was refused'}")
        sys.exit(EXIT_USAGE)
    except KeyboardInterrupt:
        print_error("interrupted")
        sys.exit(EXIT_INTERRUPTED)
