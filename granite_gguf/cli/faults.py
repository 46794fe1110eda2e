"""What a person is told of a fault of this package: one line, and how to report it."""

from __future__ import annotations

import os
import traceback
from pathlib import Path

from granite_gguf._version import __version__

TRACEBACK_VARIABLE = "GRANITE_GGUF_TRACEBACK"
"""Set in the environment, it asks for tracebacks."""


def describe_fault(error: Exception) -> str:
    """One line; the traceback goes to stderr where the environment asks for it."""
    if os.environ.get(TRACEBACK_VARIABLE):
        traceback.print_exception(error)
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return (
        f"{type(error).__name__}: {error}{place}. This is a fault of granite-gguf {__version__}; "
        f"please report it with what the same command prints after {TRACEBACK_VARIABLE}=1"
    )
