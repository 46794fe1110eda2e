"""The devices that this build of ggml finds on this machine."""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import ggml as c

from granite_gguf.errors import DeviceError

logger = logging.getLogger("granite_gguf.ggml")

_LOG_LEVELS = {
    c.GGML_LOG_LEVEL_DEBUG: logging.DEBUG,
    c.GGML_LOG_LEVEL_INFO: logging.DEBUG,
    c.GGML_LOG_LEVEL_WARN: logging.WARNING,
    c.GGML_LOG_LEVEL_ERROR: logging.ERROR,
}


@c.ggml_log_callback  # type: ignore[untyped-decorator]
def _forward_log(level: int, message: bytes, _user_data: Any) -> None:
    text = message.decode(errors="replace").rstrip()
    if text:
        logger.log(_LOG_LEVELS.get(level, logging.DEBUG), "%s", text)


@dataclass(frozen=True)
class DeviceInfo:
    """A device of this build of ggml."""

    name: str
    description: str
    kind: str  # "cpu", "gpu", "igpu" or "accel"
    free_bytes: int
    total_bytes: int


_DEVICE_KINDS = {
    c.GGML_BACKEND_DEVICE_TYPE_CPU: "cpu",
    c.GGML_BACKEND_DEVICE_TYPE_GPU: "gpu",
    c.GGML_BACKEND_DEVICE_TYPE_IGPU: "igpu",
    c.GGML_BACKEND_DEVICE_TYPE_ACCEL: "accel",
}


def _device_handles() -> Iterator[tuple[Any, DeviceInfo]]:
    c.ggml_log_set(_forward_log, None)
    for index in range(c.ggml_backend_dev_count()):
        handle = c.ggml_backend_dev_get(index)
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        c.ggml_backend_dev_memory(handle, ctypes.byref(free), ctypes.byref(total))
        yield (
            handle,
            DeviceInfo(
                name=c.ggml_backend_dev_name(handle).decode(),
                description=c.ggml_backend_dev_description(handle).decode(),
                kind=_DEVICE_KINDS.get(c.ggml_backend_dev_type(handle), "other"),
                free_bytes=free.value,
                total_bytes=total.value,
            ),
        )


def list_devices() -> list[DeviceInfo]:
    """The devices that this build of ggml finds on this machine."""
    return [info for _, info in _device_handles()]


def default_threads() -> int:
    """The number of processors this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def choose_device(device: str) -> tuple[Any, DeviceInfo]:
    """The handle and description of a device by its name, or of the best by ``auto``.

    Raises:
        DeviceError: this build of ggml has no such device.
    """
    found = list(_device_handles())
    if device == "auto":
        for kind in ("gpu", "igpu", "cpu"):
            for handle, info in found:
                if info.kind == kind:
                    return handle, info
    for handle, info in found:
        if info.name.lower() == device.lower():
            return handle, info
    names = ", ".join(info.name for _, info in found)
    raise DeviceError(
        f"device {device!r} is not in this build of ggml; it has: {names}. "
        "Use 'auto' or one of these names; `granite-gguf doctor` tells how to build for a GPU"
    )
