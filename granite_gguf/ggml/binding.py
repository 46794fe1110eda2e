"""Imports ggml so that its threads do not spin for long, and a build for CUDA can be imported."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# GNU OpenMP reads this when it is loaded. Its threads meet after every operation and, left to its
# default, spin for milliseconds before they sleep. Where another process has a core, the thread
# that is waited for then waits for that core although one is only spun on: a pass takes ten times
# as long. Fifty microseconds are as fast as the default on an idle machine.
_VARIABLE, _SPINS = "GOMP_SPINCOUNT", "1000"

# ggml-python 0.0.45 binds it in a build for CUDA, whose ggml declares it and has no such function:
# the build could not be imported. Nothing here calls it.
_NOWHERE = "ggml_backend_cuda_allreduce_tensor"


class _Nowhere:
    """Stands for a function that is only declared."""

    def __call__(self, *_: object) -> None:
        raise NotImplementedError(f"this build of ggml has no {_NOWHERE}")


@contextmanager
def _few_spins() -> Iterator[None]:
    if _VARIABLE in os.environ or "OMP_WAIT_POLICY" in os.environ:
        yield
        return
    os.environ[_VARIABLE] = _SPINS
    try:
        yield
    finally:
        del os.environ[_VARIABLE]


@contextmanager
def _all_declared() -> Iterator[None]:
    found = ctypes.CDLL.__getattr__

    def find(library: ctypes.CDLL, name: str) -> Any:
        return _Nowhere() if name == _NOWHERE else found(library, name)

    ctypes.CDLL.__getattr__ = find  # type: ignore[method-assign]
    try:
        yield
    finally:
        ctypes.CDLL.__getattr__ = found  # type: ignore[method-assign]


with _few_spins():
    try:
        import ggml
    except AttributeError as error:
        if str(error) != _NOWHERE:
            raise
        with _all_declared():
            import ggml

__all__ = ["ggml"]
