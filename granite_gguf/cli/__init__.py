"""The ``granite-gguf`` command line: one module per command.

Results go to stdout; progress, warnings and errors to stderr. Exit codes: 0 all done, 1 some
inputs failed, 2 wrong usage, a model that cannot be used or a result that cannot be written, 70 a
fault of this package, 130 interrupted.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import Annotated, NoReturn

import typer

from granite_gguf._version import __version__
from granite_gguf.cli import (
    bench,
    bulk,
    convert,
    diff,
    doctor,
    evaluate,
    imatrix,
    inspect,
    listen,
    models,
    quantize,
    reference,
    serve,
    transcribe,
)
from granite_gguf.cli.console import print_error, print_note, print_result
from granite_gguf.cli.faults import describe_fault
from granite_gguf.cli.inputs import dash_hint
from granite_gguf.cli.leaving import EXIT_FAULT, EXIT_INTERRUPTED, EXIT_TERMINATED, EXIT_USAGE
from granite_gguf.cli.streams import escaped_note, finish_stderr, finish_stdout, prepare_stdout
from granite_gguf.errors import GraniteError, OutputError
from granite_gguf.files import remove_unfinished

# The errors of the parser that typer brings; it gives a name to none but this subclass.
_Usage: type[typer.BadParameter] = typer.BadParameter.__mro__[2]

app = typer.Typer(
    name="granite-gguf",
    help="Granite Speech from one GGUF file on ggml: speech to text.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print_result(f"granite-gguf {__version__}")
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
app.command("bulk")(bulk.bulk)
app.command("serve")(serve.serve)
app.command("listen")(listen.listen)
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
    prepare_stdout()
    code = EXIT_USAGE
    try:
        code = _run()
    finally:
        # Also on the way out of a termination.
        remove_unfinished()
        try:
            finish_stdout()
        except OutputError as error:
            if code != EXIT_USAGE:
                print_error(str(error))
                code = EXIT_USAGE
    if (note := escaped_note()) is not None:
        print_note(note)
    finish_stderr()
    sys.exit(code)


def _run() -> int:
    """The exit code; whatever goes wrong is one line on stderr.

    What a user or the world around did is an error with its remedy. Anything else is a fault of
    this package, and the line tells how to report it.
    """
    try:
        code = int(app(standalone_mode=False) or 0)
        if code == EXIT_INTERRUPTED:
            print_error("interrupted")
        return code
    except _Usage as error:
        _print_usage(error)
    except GraniteError as error:
        print_error(str(error))
    except MemoryError as error:  # of numpy or of Python itself
        print_error(f"not enough memory: {error or 'an allocation was refused'}")
    except (KeyboardInterrupt, typer.Abort):
        print_error("interrupted")
        return EXIT_INTERRUPTED
    except OSError as error:
        place = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
        print_error(f"{place}{error.strerror or error}")
    except Exception as error:
        print_error(describe_fault(error))
        return EXIT_FAULT
    hint = dash_hint(sys.argv[1:])
    if hint is not None:
        print_note(hint)
    return EXIT_USAGE


def _print_usage(error: typer.BadParameter) -> None:
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":  # its making has printed the help
        return
    # What checks values for typer puts its own kind of error before them.
    print_error(error.format_message().replace(": Value error, ", ": "))
    if context is not None:
        print_note(f"see `{context.command_path} --help`")
