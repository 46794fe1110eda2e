"""What this build of ggml can do, and what would make it faster."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ggml as c

from granite_gguf.ggml.devices import DeviceInfo, list_devices


@dataclass(frozen=True)
class BuildInfo:
    """The installed ggml.

    Attributes:
        binding_version: of ggml-python.
        ggml_version: of the ggml inside it.
        features: of each backend, such as ``{"CPU": {"AVX2": "1"}}``.
        devices: found on this machine.
    """

    binding_version: str
    ggml_version: str
    features: dict[str, dict[str, str]]
    devices: list[DeviceInfo]

    def has(self, feature: str) -> bool:
        """Whether the CPU backend was built with a feature."""
        return self.features.get("CPU", {}).get(feature, "0") not in ("0", "")


class _Feature(ctypes.Structure):
    _fields_ = (("name", ctypes.c_char_p), ("value", ctypes.c_char_p))


_GET_FEATURES = ctypes.CFUNCTYPE(ctypes.POINTER(_Feature), ctypes.c_void_p)


def _features(registry: Any) -> dict[str, str]:
    address = c.ggml_backend_reg_get_proc_address(registry, b"ggml_backend_get_features")
    if not address:
        return {}
    table = _GET_FEATURES(address)(registry)
    found = {}
    index = 0
    while table[index].name:
        found[table[index].name.decode()] = table[index].value.decode()
        index += 1
    return found


def build_info() -> BuildInfo:
    """Ask the installed ggml about itself."""
    devices = list_devices()
    registries = [c.ggml_backend_reg_get(i) for i in range(c.ggml_backend_reg_count())]
    return BuildInfo(
        binding_version=version("ggml-python"),
        ggml_version=c.ggml_version().decode(),
        features={c.ggml_backend_reg_name(r).decode(): _features(r) for r in registries},
        devices=devices,
    )


# Flags of /proc/cpuinfo and the features of a build that uses them.
_CPU_FLAGS = {
    "avx2": "AVX2",
    "f16c": "F16C",
    "avx512f": "AVX512",
    "avx512_vnni": "AVX512_VNNI",
    "avx512_bf16": "AVX512_BF16",
}


def processor_has(flag: str) -> bool:
    """Whether Linux names a flag of this machine's processor."""
    return flag in _processor_flags()


@cache
def _processor_flags() -> frozenset[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    flags = (line.partition(":")[2].split() for line in lines if line.startswith("flags"))
    return frozenset(next(flags, ()))


def unused_cpu_features(build: BuildInfo) -> list[str]:
    """Features that this machine's processor has and the build leaves out; Linux on x86 only."""
    return [
        name for flag, name in _CPU_FLAGS.items() if processor_has(flag) and not build.has(name)
    ]
