"""Runs the command line in processes of its own."""

from __future__ import annotations

import os
import subprocess
import sys


def run(*arguments: object, **options: str) -> subprocess.CompletedProcess[str]:
    """``granite-gguf`` with arguments, offline; options are of the environment."""
    environment = {key: value for key, value in os.environ.items() if "GRANITE" not in key}
    return subprocess.run(
        [sys.executable, "-m", "granite_gguf", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**environment, "HF_HUB_OFFLINE": "1", **options},
        timeout=120,
        check=False,
    )


def assert_refused(process: subprocess.CompletedProcess[str], code: int, *says: str) -> None:
    """It ended with a code and said what it had to, without a traceback."""
    assert process.returncode == code, process.stderr
    assert "Traceback" not in process.stderr
    for part in says:
        assert part in process.stderr
