"""The reference GGUF: stage outputs of one recording in a file. The one module with its keys.

Files of the published form hold only the `crispasr.ref.*` strings and most of the tensors; ours
add `granite_nle.ref.*` keys and a few tensors, and change nothing of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from granite_gguf.arrays import FloatArray, IntArray
from granite_gguf.errors import ModelFileError, UnsupportedModelError, brief
from granite_gguf.files import Progress, silent
from granite_gguf.ggml.types import GGMLType
from granite_gguf.parity.recorded import VECTORS, Names, Recorded
from granite_gguf.parity.thresholds import uniform_precision
from granite_gguf.storage.container import (
    Container,
    MetadataValue,
    TensorInfo,
    ValueType,
    open_container,
    to_float32,
)
from granite_gguf.storage.keys import Keys
from granite_gguf.storage.writer import TensorSource, write_gguf

ARCHITECTURE = "crispasr.reference"

_PREFIX = "crispasr.ref."
_OWN_PREFIX = "granite_nle.ref."
_GENERATED_TEXT = "generated_text"  # the published name's other spelling
_DTYPE = "dtype"

# What a reference was computed in, by the name in `granite_nle.ref.dtype`.
DTYPES = {"f32": GGMLType.F32, "bf16": GGMLType.BF16, "f64": GGMLType.F32}


def architecture(path: Path) -> str:
    """The architecture a GGUF file names.

    Raises:
        ModelFileError: it cannot be read or names none.
    """
    found = open_container(path).metadata.get(Keys.General.ARCHITECTURE)
    if found is None or found.type is not ValueType.STRING:
        raise ModelFileError(f"{path}: has no {Keys.General.ARCHITECTURE}")
    return str(found.value)


def write_reference(
    path: Path,
    recorded: Recorded,
    *,
    backend: str,
    model_dir: str,
    about: Mapping[str, str],
    force: bool = False,
    progress: Progress = silent,
) -> int:
    """Write a reference file and return its size in bytes.

    Args:
        path: the file.
        recorded: the stages.
        backend: what computed them.
        model_dir: the checkpoint or file they were computed from.
        about: further strings, kept under ``granite_nle.ref.``; ``dtype`` is one of `DTYPES`.

    Raises:
        OutputError: the file exists and ``force`` is not set, or cannot be written.
    """
    strings = {
        _PREFIX + "backend": backend,
        _PREFIX + "model_dir": model_dir,
        _PREFIX + Names.CTC_TEXT: recorded.ctc_text or "",
        _PREFIX + Names.FINAL_TEXT: recorded.final_text or "",
        _PREFIX + _GENERATED_TEXT: recorded.final_text or "",
        **{_OWN_PREFIX + key: value for key, value in about.items()},
    }
    metadata = {Keys.General.ARCHITECTURE: MetadataValue(ValueType.STRING, ARCHITECTURE)}
    metadata |= {key: MetadataValue(ValueType.STRING, value) for key, value in strings.items()}
    arrays: dict[str, npt.NDArray[Any]] = dict(recorded.arrays)
    if recorded.text_ids is not None:
        arrays[Names.TEXT_IDS] = recorded.text_ids
    tensors = [_source(name, array) for name, array in arrays.items()]
    return write_gguf(path, metadata, tensors, force=force, progress=progress)


def _source(name: str, array: npt.NDArray[Any]) -> TensorSource:
    values = np.ascontiguousarray(array, dtype=np.float32)
    return TensorSource(name, tuple(reversed(values.shape)), GGMLType.F32, partial(_once, values))


def _once(values: FloatArray) -> Iterable[npt.NDArray[Any]]:
    return (values,)


def read_reference(path: Path) -> Recorded:
    """Read a reference file of the published form or of ours.

    Raises:
        ModelFileError: it is damaged, or a tensor has a type or shape it cannot have.
        UnsupportedModelError: it is no reference file.
    """
    container = open_container(path)
    found = container.metadata.get(Keys.General.ARCHITECTURE)
    if found is None or found.value != ARCHITECTURE:
        raise UnsupportedModelError(
            f"{path}: holds {None if found is None else brief(found.value)}, expected "
            f"{ARCHITECTURE!r}: "
            "a reference file, as `granite-gguf reference` makes it"
        )
    arrays = {
        name: _read(container, info)
        for name, info in container.tensors.items()
        if name != Names.TEXT_IDS
    }
    about = {
        key.removeprefix(_OWN_PREFIX): str(value.value)
        for key, value in container.metadata.items()
        if key.startswith(_OWN_PREFIX)
    }
    dtype = about.get(_DTYPE, "f32")
    if dtype not in DTYPES:
        raise ModelFileError(
            f"{path}: {_OWN_PREFIX}{_DTYPE} is {brief(dtype)}, expected {', '.join(DTYPES)}"
        )
    return Recorded(
        source=str(path),
        arrays=arrays,
        precision=uniform_precision(DTYPES[dtype]),
        text_ids=_read_ids(container),
        ctc_text=_text(container, Names.CTC_TEXT),
        final_text=_text(container, Names.FINAL_TEXT) or _text(container, _GENERATED_TEXT),
        about=about,
    )


def _text(container: Container, name: str) -> str | None:
    found = container.metadata.get(_PREFIX + name)
    return str(found.value) if found is not None and found.type is ValueType.STRING else None


def _read(container: Container, info: TensorInfo) -> FloatArray:
    if info.type is not GGMLType.F32:
        raise ModelFileError(
            f"{container.path}: tensor {info.name!r} is {info.type.name}, expected F32"
        )
    shape = info.shape
    while len(shape) > 1 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) > (1 if info.name in VECTORS else 2):
        raise ModelFileError(
            f"{container.path}: tensor {info.name!r} has the shape {list(info.shape)}, expected "
            f"{'[n]' if info.name in VECTORS else '[features, rows]'}"
        )
    values = to_float32(container.raw(info.name), info.type, shape)
    return values if info.name in VECTORS else values.reshape(-1, shape[0])


def _read_ids(container: Container) -> IntArray | None:
    info = container.tensors.get(Names.TEXT_IDS)
    if info is None:
        return None
    types = {GGMLType.F32: np.float32, GGMLType.I32: np.int32}
    if info.type not in types:
        raise ModelFileError(
            f"{container.path}: tensor {info.name!r} is {info.type.name}, expected F32 or I32"
        )
    values = container.raw(info.name).view(types[info.type])
    if not np.isfinite(values).all() or (values != np.round(values)).any():
        raise ModelFileError(f"{container.path}: tensor {info.name!r} holds no whole numbers")
    return values.astype(np.int64)
