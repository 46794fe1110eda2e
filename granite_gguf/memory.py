"""How much memory this process can still have, asked before more is taken.

    /proc/meminfo, control groups, the limit of address space → the least → enough, or an error

Linux kills a process that fills memory which is not there, and ggml aborts where a small amount is
refused: neither can be caught, so what is needed is computed and compared first. What a system does
not tell is taken as enough.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from granite_gguf.errors import OutOfMemoryError
from granite_gguf.sizes import megabytes

if sys.platform != "win32":
    import resource

ROOT = Path("/")
"""Where ``proc`` and ``sys`` are."""

SPARE = 32 << 20
"""Left of a limited address space for everything small, whose refusal would end the process."""

FREE_SOME = "Free some memory, or raise the limit"
"""What to do where nothing else helps."""

_M_ARENA_MAX = -8  # of malloc.h
_HEAPS = 2
_STACK = 8 << 20  # bytes of a thread's stack where nothing limits it
_UNLIMITED = 1 << 60  # version 1 of the control groups writes a huge number for no limit


@dataclass(frozen=True)
class Room:
    """Memory that is still to be had.

    Attributes:
        free: how many bytes.
        where: whose limit that is.
        unfilled: bytes that are asked for besides, without being filled, and count there.
    """

    free: int
    where: str
    unfilled: int = 0


def host_room(*, unfilled: int = 0) -> Room | None:
    """The least that any limit of this process leaves, or None where nothing is known.

    ``unfilled`` bytes will be asked for and never filled: they take address space alone.
    """
    found = [*_machine(), *_control_groups(), *_address_space(unfilled)]
    return min(found, key=lambda room: room.free - room.unfilled, default=None)


def require(
    needed: int, purpose: str, remedy: str, *, room: Room | None = None, unfilled: int = 0
) -> None:
    """Refuse what does not fit.

    Args:
        needed: bytes about to be allocated.
        purpose: what for: the beginning of the message.
        remedy: what to do about it: its end.
        room: where they come from; by default the process's own memory.
        unfilled: as for :func:`host_room`.

    Raises:
        OutOfMemoryError: there is less.
    """
    room = room or host_room(unfilled=unfilled)
    if room is not None and needed + room.unfilled > room.free:
        raise OutOfMemoryError(
            f"{purpose} needs {megabytes(needed + room.unfilled)} of memory, but {room.where} "
            f"leaves {megabytes(room.free)}. {remedy}"
        )


@contextmanager
def starting_threads() -> Iterator[None]:
    """Tells a thread that the system refuses as what it is.

    Raises:
        OutOfMemoryError: no room for its stack, or too many threads.
    """
    try:
        yield
    except RuntimeError as error:
        if "start new thread" not in str(error):
            raise
        raise OutOfMemoryError(
            "The system refuses another thread. Use fewer threads, or raise the limit of address "
            "space (ulimit -v) or of processes (ulimit -u)"
        ) from error


def share_heaps() -> None:
    """Have the C library share a few heaps among all threads that begin from now on.

    glibc gives threads up to eight heaps a core, and each keeps the most that was ever in it. Who
    sets MALLOC_ARENA_MAX knows better.
    """
    if sys.platform == "linux" and "MALLOC_ARENA_MAX" not in os.environ:
        choose = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc's own
        if choose is not None:
            choose(_M_ARENA_MAX, _HEAPS)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def _fields(path: Path) -> dict[str, int]:
    """The ``name number`` lines of a file; sizes in kB become bytes."""
    found = {}
    for line in _read(path).splitlines():
        name, number, unit = [*line.split(), "", "", ""][:3]
        if number.isdigit():
            found[name.rstrip(":")] = int(number) << (10 if unit == "kB" else 0)
    return found


def _number(path: Path) -> int | None:
    """The number in a file; None where there is none, such as ``max``."""
    text = _read(path).strip()
    return int(text) if text.isdigit() else None


def _machine() -> Iterator[Room]:
    info = _fields(ROOT / "proc/meminfo")
    if "MemAvailable" in info:
        yield Room(info["MemAvailable"] + info.get("SwapFree", 0), "this machine")


def _control_groups() -> Iterator[Room]:
    for line in _read(ROOT / "proc/self/cgroup").splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        top = ROOT / "sys/fs/cgroup"
        if controllers == "memory":
            yield from _groups(top / "memory", path, "memory.limit_in_bytes", _used_v1)
        elif not controllers:
            yield from _groups(top, path, "memory.max", _used_v2)


def _groups(top: Path, path: str, limit_name: str, used: Callable[[Path], int]) -> Iterator[Room]:
    """A group and those it is in: each limit holds for all below."""
    parts = [part for part in path.split("/") if part not in ("", "..")]
    for count in range(len(parts), -1, -1):
        group = top.joinpath(*parts[:count])
        limit = _number(group / limit_name)
        if limit is not None and limit < _UNLIMITED:
            yield Room(max(0, limit - used(group)), "the memory limit of the control group")


def _used_v1(group: Path) -> int:
    stat = _fields(group / "memory.stat")
    cached = stat.get("total_inactive_file", 0) + stat.get("total_active_file", 0)
    return max(0, (_number(group / "memory.usage_in_bytes") or 0) - cached)


def _used_v2(group: Path) -> int:
    stat = _fields(group / "memory.stat")
    cached = sum(stat.get(n, 0) for n in ("inactive_file", "active_file", "slab_reclaimable"))
    swap = (_number(group / "memory.swap.max") or 0) - (_number(group / "memory.swap.current") or 0)
    return max(0, (_number(group / "memory.current") or 0) - cached) - max(0, swap)


def _address_space(unfilled: int) -> Iterator[Room]:
    if sys.platform == "win32":
        return
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    pages = _read(ROOT / "proc/self/statm").split()
    if limit != resource.RLIM_INFINITY and pages:
        used = int(pages[0]) * resource.getpagesize()
        free = max(0, limit - used)
        yield Room(free, "the limit of address space (ulimit -v)", unfilled + SPARE)


def stack_bytes() -> int:
    """What a thread's stack takes of the address space."""
    if sys.platform == "win32":
        return _STACK
    limit = resource.getrlimit(resource.RLIMIT_STACK)[0]
    return _STACK if limit == resource.RLIM_INFINITY else limit


def peak_resident() -> int:
    """The most bytes that this process has had in memory; 0 where the system does not tell."""
    if sys.platform == "win32":
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
