"""Ends the process while another thread computes."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from granite_gguf.cli.console import print_error


def leave(code: int) -> NoReturn:
    """End the process at once, although a thread still computes inside ggml."""
    print_error("interrupted; what was finished is kept")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
