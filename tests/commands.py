"""Runs the command line in processes of its own."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path


def run(
    *arguments: object, cwd: Path | None = None, **options: str
) -> subprocess.CompletedProcess[str]:
    """``granite-gguf`` with arguments, offline, in a folder; options are of the environment."""
    environment = {key: value for key, value in os.environ.items() if "GRANITE" not in key}
    return subprocess.run(
        [sys.executable, "-m", "granite_gguf", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**environment, "HF_HUB_OFFLINE": "1", **options},
        cwd=cwd,
        timeout=120,
        check=False,
    )


def assert_refused(process: subprocess.CompletedProcess[str], code: int, *says: str) -> None:
    """It ended with a code and said what it had to, without a traceback."""
    assert process.returncode == code, process.stderr
    assert "Traceback" not in process.stderr
    for part in says:
        assert part in process.stderr


def shown_in(text: str) -> list[list[str]]:
    """The arguments of each command line that a document shows with a prompt."""
    shown = [shlex.split(line) for line in re.findall(r"^\$ (.+)$", text, re.MULTILINE)]
    assert all(program == "granite-gguf" for program, *_ in shown)
    return [arguments for _, *arguments in shown]
