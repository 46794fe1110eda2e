"""Which GPU is used, and what is on it once for all who use it."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from functools import cached_property
from importlib.util import find_spec
from threading import Lock
from typing import Any, TypeVar

from granite_gguf.closing import Closing
from granite_gguf.errors import DeviceError, MissingExtraError
from granite_gguf.forks import tell_after_fork
from granite_gguf.ggml import DeviceInfo

T = TypeVar("T")

_NAME = re.compile(r"cuda(?::(\d+))?")


class Gpu(Closing):
    """An NVIDIA GPU that CuPy finds.

    Args:
        number: which one.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self._lock = Lock()
        self._kept: Any = None
        self._forked = False
        tell_after_fork(self)

    @cached_property
    def info(self) -> DeviceInfo:
        """What it is, and its memory."""
        import cupy  # noqa: PLC0415 - an extra

        found = cupy.cuda.runtime.getDeviceProperties(self.number)
        with cupy.cuda.Device(self.number) as device:
            free, total = device.mem_info
        return DeviceInfo(f"cuda:{self.number}", found["name"].decode(), "gpu", free, total)

    def once(self, make: Callable[[], T]) -> T:
        """What is on it for all: made for the first who asks."""
        with self._lock:
            if self._kept is None:
                self._kept = make()
            found: T = self._kept
            return found

    def after_fork(self) -> None:
        """A driver does not survive a fork."""
        self._forked = True

    def check(self) -> None:
        """See that it was not opened by the parent of this process.

        Raises:
            DeviceError: it was.
        """
        if self._forked:
            raise DeviceError(
                f"{self.info.name} was opened by the parent of this process and cannot be used in "
                "a forked child: load the model in the child, or start children by 'spawn'"
            )

    def close(self) -> None:
        """Let go of what is on it; other models' stays."""
        self._kept = None
        if not self._forked and "cupy" in sys.modules:
            sys.modules["cupy"].get_default_memory_pool().free_all_blocks()


def list_gpus() -> list[DeviceInfo]:
    """The GPUs that CuPy finds; none where it is not installed, or finds no driver."""
    return [Gpu(number).info for number in range(_count())]


def names_gpu(device: str) -> bool:
    """Whether a device's name is that of a GPU here: ``cuda`` or ``cuda:N``."""
    return _NAME.fullmatch(device.lower()) is not None


def find_gpu(device: str) -> Gpu | None:
    """The GPU that a device's name means: ``cuda`` or ``cuda:N``, or the first by ``auto``.

    Returns:
        None where the name is of another kind, or where ``auto`` finds none.

    Raises:
        MissingExtraError: it is asked for, and CuPy is not installed.
        DeviceError: it is asked for, and there is none.
    """
    named = _NAME.fullmatch(device.lower())
    if named is None and device != "auto":
        return None
    count = _count()
    if named is None:
        return Gpu(0) if count else None
    if not _installed():
        raise MissingExtraError(
            f"device {device!r} needs CuPy, which is not installed: pip install "
            "'granite-gguf[cuda]'"
        )
    number = int(named[1] or 0)
    if number >= count:
        raise DeviceError(
            f"device {device!r} is not here; CuPy finds {count or 'no'} NVIDIA "
            f"GPU{'' if count == 1 else 's'}: see `nvidia-smi`, that the driver is as new as the "
            "CUDA that CuPy was built for, and `python -c 'import cupy; cupy.show_config()'`"
        )
    return Gpu(number)


def _installed() -> bool:
    found = find_spec("cupy")
    return found is not None and found.origin is not None  # a folder of that name has none


def _count() -> int:
    if not _installed():
        return 0
    try:
        import cupy  # noqa: PLC0415 - an extra
    except ImportError:  # a library of CUDA is missing
        return 0
    try:
        return int(cupy.cuda.runtime.getDeviceCount())
    except cupy.cuda.runtime.CUDARuntimeError:  # no driver, or one that is too old
        return 0
