"""What the system tells of a machine, written into a folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def system(root: Path, files: Mapping[str, str]) -> Path:
    """The folder, with these files in it."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def meminfo(free_mb: float, swap_mb: int = 0) -> str:
    """What ``/proc/meminfo`` says of a machine with so much memory free."""
    return (
        f"MemTotal: 99999999 kB\nMemFree: 1 kB\nMemAvailable: {int(free_mb * 1024)} kB\n"
        f"SwapFree: {swap_mb * 1024} kB\nHugePages_Total: 0\n"
    )


def scarce(root: Path) -> Path:
    """A machine with a megabyte left."""
    return system(root, {"proc/meminfo": meminfo(1)})
