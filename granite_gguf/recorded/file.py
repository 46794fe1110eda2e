"""The reference GGUF: stage outputs of one recording in a file. The one module with its keys.

Files of the published form hold only the `crispasr.ref.*` strings and most of the tensors; ours
add `{arch}.ref.*` keys and a few tensors, and change nothing of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from granite_gguf.arrays import AnyArray, FloatArray, IntArray
from granite_gguf.errors import ModelFileError, UnsupportedModelError, brief
from granite_gguf.files import Progress, silent
from granite_gguf.ggml.types import BF16, F32, I32, GGMLType
from granite_gguf.recorded.outputs import IDS, TEXTS, VECTORS, Names, Precision, Recorded
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
_OWN_PREFIX = "{}.ref."  # of the architecture
_GENERATED_TEXT = "generated_text"  # the published name's other spelling
_DTYPE = "dtype"

# What a reference was computed in, by the name in `{arch}.ref.dtype`.
DTYPES = {"f32": F32, "bf16": BF16, "f64": F32}

_STORED = {F32: np.float32, I32: np.int32}


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
        about: further strings, kept under ``{arch}.ref.``; ``dtype`` is one of `DTYPES`.

    Raises:
        OutputError: the file exists and ``force`` is not set, or cannot be written.
    """
    own = _OWN_PREFIX.format(recorded.architecture)
    strings = {
        _PREFIX + "backend": backend,
        _PREFIX + "model_dir": model_dir,
        **{_PREFIX + name: text for name, text in recorded.texts.items()},
        _PREFIX + _GENERATED_TEXT: recorded.texts.get(Names.FINAL_TEXT, ""),
        **{own + key: value for key, value in about.items()},
    }
    metadata = {Keys.General.ARCHITECTURE: MetadataValue(ValueType.STRING, ARCHITECTURE)}
    metadata |= {key: MetadataValue(ValueType.STRING, value) for key, value in strings.items()}
    tensors = [_source(name, array, F32) for name, array in recorded.arrays.items()]
    tensors += [_source(name, ids, IDS[name]) for name, ids in recorded.ids.items()]
    return write_gguf(path, metadata, tensors, force=force, progress=progress)


def _source(name: str, array: AnyArray, kind: GGMLType) -> TensorSource:
    values = np.ascontiguousarray(array, dtype=_STORED[kind])
    return TensorSource(name, tuple(reversed(values.shape)), kind, partial(_once, values))


def _once(values: AnyArray) -> Iterable[AnyArray]:
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
    of, about = _about(container)
    dtype = about.get(_DTYPE, "f32")
    if dtype not in DTYPES:
        raise ModelFileError(
            f"{path}: {_OWN_PREFIX.format(of)}{_DTYPE} is {brief(dtype)}, expected "
            f"{', '.join(DTYPES)}"
        )
    infos = container.tensors.items()
    return Recorded(
        source=str(path),
        architecture=of,
        arrays={name: _read(container, info) for name, info in infos if name not in IDS},
        ids={name: _read_ids(container, info) for name, info in infos if name in IDS},
        texts=_texts(container),
        precision=Precision(others=DTYPES[dtype]),
        about=about,
    )


def _about(container: Container) -> tuple[str, dict[str, str]]:
    """The architecture of our own keys, empty where there are none, and their values."""
    middle = _OWN_PREFIX.format("")
    for key in container.metadata:
        of, _, rest = key.partition(middle)
        if rest and not key.startswith(_PREFIX):
            prefix = of + middle
            return of, {
                key.removeprefix(prefix): str(value.value)
                for key, value in container.metadata.items()
                if key.startswith(prefix)
            }
    return "", {}


def _texts(container: Container) -> dict[str, str]:
    found = {name: container.text(_PREFIX + name) for name in (*TEXTS, _GENERATED_TEXT)}
    # The other spelling stands in where the first is missing or empty.
    generated = found.pop(_GENERATED_TEXT)
    found[Names.FINAL_TEXT] = found[Names.FINAL_TEXT] or generated
    return {name: text for name, text in found.items() if text is not None}


def _read(container: Container, info: TensorInfo) -> FloatArray:
    if info.type is not F32:
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


def _read_ids(container: Container, info: TensorInfo) -> IntArray:
    if info.type not in _STORED:
        raise ModelFileError(
            f"{container.path}: tensor {info.name!r} is {info.type.name}, expected F32 or I32"
        )
    values = container.raw(info.name).view(_STORED[info.type])
    if not np.isfinite(values).all() or (values != np.round(values)).any():
        raise ModelFileError(f"{container.path}: tensor {info.name!r} holds no whole numbers")
    return values.astype(np.int64)
