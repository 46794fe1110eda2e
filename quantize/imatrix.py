"""Importance matrices: how strongly each input column of each matrix is used.

The file form is llama.cpp's: a GGUF of type ``imatrix`` with ``NAME.in_sum2``, the sum of squared
activations by column, and ``NAME.counts``, the number of rows that were summed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np

from granite_gguf.arrays import FloatArray
from granite_gguf.errors import ModelFileError, brief
from granite_gguf.ggml import F32
from granite_gguf.model import Model
from granite_gguf.sound.source import AudioInput
from granite_gguf.storage.container import (
    Container,
    MetadataValue,
    ValueType,
    open_container,
    to_float32,
)
from granite_gguf.storage.keys import Keys
from granite_gguf.storage.writer import TensorSource, write_gguf

_TYPE = "imatrix"
_SUMS, _COUNTS = ".in_sum2", ".counts"
_FLOOR = 1e-6  # of the mean: a column that was never used still weighs something


@dataclass(frozen=True)
class ImportanceMatrix:
    """Mean squared activations by tensor.

    Attributes:
        columns: by tensor name, float32 ``(width,)``, positive.
        datasets: what it was collected from.
        chunks: how many recordings.
        path: where it was read from.
    """

    columns: dict[str, FloatArray]
    datasets: tuple[str, ...]
    chunks: int
    path: Path


def collect_importance(
    model: Model,
    recordings: Iterable[AudioInput],
    output: str | PathLike[str],
    *,
    datasets: Iterable[str] = (),
    force: bool = False,
    progress: Callable[[int], None] = lambda _done: None,
) -> int:
    """Transcribe recordings, observe the inputs of every matrix, and write them.

    Args:
        model: the model, best in full precision.
        recordings: files or arrays.
        output: the file to write.
        datasets: names recorded in the file.
        force: replace an existing file.
        progress: is told how many recordings are done.

    Returns:
        How many matrices were observed.

    Raises:
        AudioError: a recording cannot be used.
        OutputError: the file cannot be written.
    """
    done = 0
    with model.observe_inputs() as observed:
        for recording in recordings:
            model.transcribe(recording, min_confidence=0)  # whatever it says is observed
            done += 1
            progress(done)
    metadata = {
        Keys.General.ARCHITECTURE: MetadataValue.of(model.file.format.name),
        Keys.General.TYPE: MetadataValue.of(_TYPE),
        Keys.Imatrix.DATASETS: MetadataValue.strings(datasets),
        Keys.Imatrix.CHUNK_COUNT: MetadataValue.of(done),
        Keys.Imatrix.CHUNK_SIZE: MetadataValue.of(1),
    }
    tensors = []
    for name in sorted(observed):
        sums, count = observed[name]
        tensors += [
            _tensor(name + _SUMS, sums.astype(np.float32)[None]),
            _tensor(name + _COUNTS, np.array([[count]], np.float32)),
        ]
    write_gguf(Path(output), metadata, tensors, force=force)
    return len(observed)


def _tensor(name: str, values: FloatArray) -> TensorSource:
    return TensorSource(name, tuple(reversed(values.shape)), F32, lambda: [values])


def read_importance(path: str | PathLike[str]) -> ImportanceMatrix:
    """Read an importance matrix.

    Raises:
        ModelFileError: the file is damaged, or is no importance matrix.
    """
    container = open_container(Path(path))
    if container.text(Keys.General.TYPE) != _TYPE:
        raise ModelFileError(f"{path}: is no importance matrix, as `granite-gguf imatrix` makes it")
    columns = {}
    for name, info in container.tensors.items():
        if not name.endswith(_SUMS):
            continue
        matrix = name.removesuffix(_SUMS)
        counts = container.tensors.get(matrix + _COUNTS)
        if counts is None or info.type is not F32 or counts.type is not F32:
            raise ModelFileError(f"{path}: {brief(name)} has no float32 {_COUNTS} beside it")
        sums = to_float32(container.raw(name), info.type, info.shape).reshape(-1)
        count = to_float32(container.raw(counts.name), counts.type, counts.shape).reshape(-1)[0]
        if not count > 0 or not np.isfinite(sums).all() or sums.min() < 0 or not sums.any():
            raise ModelFileError(f"{path}: {brief(name)} holds no usable sums of squares")
        mean = sums / count
        columns[matrix] = np.maximum(mean, np.float32(_FLOOR) * mean.mean())
    return ImportanceMatrix(
        columns=columns, datasets=_datasets(container), chunks=_chunks(container), path=Path(path)
    )


def _datasets(container: Container) -> tuple[str, ...]:
    found = container.metadata.get(Keys.Imatrix.DATASETS)
    if found is None:
        return ()
    if found.element_type is not ValueType.STRING:
        raise ModelFileError(f"{container.path}: {Keys.Imatrix.DATASETS} are no strings")
    return tuple(found.value)


def _chunks(container: Container) -> int:
    found = container.metadata.get(Keys.Imatrix.CHUNK_COUNT)
    if found is None:
        return 0
    if not isinstance(found.value, int) or not 0 <= found.value < 1 << 32:
        raise ModelFileError(
            f"{container.path}: {Keys.Imatrix.CHUNK_COUNT} is {brief(found.value)}, "
            "expected a count"
        )
    return found.value
