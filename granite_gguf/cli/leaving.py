"""With what codes the process ends, and its end while another thread computes."""

from __future__ import annotations

import os
from typing import NoReturn

from granite_gguf.cli.console import print_error
from granite_gguf.cli.streams import finish_stderr, finish_stdout
from granite_gguf.errors import OutputError
from granite_gguf.files import remove_unfinished

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_FAULT = 70
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143


def leave(code: int) -> NoReturn:
    """End the process at once, although a thread still computes inside ggml."""
    remove_unfinished()
    print_error("interrupted; what was finished is kept")
    try:
        finish_stdout()
    except OutputError as error:
        print_error(str(error))
    finish_stderr()
    os._exit(code)
