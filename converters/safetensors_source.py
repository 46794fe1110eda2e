"""Reads the tensors of a checkpoint directory part by part.

The ``safetensors`` library checks the files; its numpy interface knows no bfloat16 and maps whole
files into memory, so the parts are read here.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from granite_gguf.arrays import AnyArray
from granite_gguf.converters.dtypes import SOURCE_TYPES
from granite_gguf.errors import CheckpointError, brief
from granite_gguf.ggml.types import GGMLType

PART_BYTES = 16 << 20

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a safetensors file. ``shape`` is in the checkpoint's order."""

    path: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    def rows(self, name: str, width: int) -> Iterator[tuple[AnyArray, GGMLType]]:
        """The contents as rows of ``width`` numbers, some at a time, and their format.

        Raises:
            CheckpointError: the type is no float, or the file ends early.
        """
        if self.dtype not in SOURCE_TYPES:
            raise CheckpointError(
                f"{self.path}: tensor {name} is {self.dtype[:80]}, "
                f"expected {', '.join(SOURCE_TYPES)}"
            )
        kind, dtype = SOURCE_TYPES[self.dtype]
        row = width * dtype.itemsize
        at_once = max(1, PART_BYTES // row) * row
        with self.path.open("rb", buffering=0) as file:
            file.seek(self.start)
            for start in range(self.start, self.end, at_once):
                wanted = min(at_once, self.end - start)
                data = file.read(wanted)
                if len(data) != wanted:
                    raise CheckpointError(f"{self.path}: ends inside the tensor {name}")
                yield np.frombuffer(data, dtype).reshape(-1, width), kind


def open_checkpoint(directory: Path) -> dict[str, StoredTensor]:
    """Every tensor of a checkpoint by its key, from one file or from the shards of an index.

    Raises:
        CheckpointError: files are missing, damaged, or disagree with the index.
    """
    if (directory / _INDEX).is_file():
        return _open_shards(directory)
    if not (directory / _SINGLE).is_file():
        raise CheckpointError(f"{directory}: has neither {_SINGLE} nor {_INDEX}")
    return read_tensors(directory / _SINGLE)


def _open_shards(directory: Path) -> dict[str, StoredTensor]:
    path = directory / _INDEX
    try:
        weight_map = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        names = sorted(set(weight_map.values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path}: is no index with a weight_map: {brief(str(error))}"
        ) from error
    tensors: dict[str, StoredTensor] = {}
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            raise CheckpointError(
                f"{path}: names the shard {brief(name)}, which is no file beside it"
            )
        if not (directory / name).is_file():
            raise CheckpointError(f"{directory / name}: no such file, but {_INDEX} names it")
        for key, tensor in read_tensors(directory / name).items():
            if weight_map.get(key) != name:
                raise CheckpointError(f"{path}: does not place the tensor {brief(key)} in {name}")
            tensors[key] = tensor
    missing = sorted(weight_map.keys() - tensors.keys())
    if missing:
        raise CheckpointError(
            f"{directory}: {len(missing)} tensors of {_INDEX} are in no shard: "
            f"{brief(missing[0])}, ..."
        )
    return tensors


def read_tensors(path: Path) -> dict[str, StoredTensor]:
    """Every tensor of one file by its key.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    try:
        # Checks lengths, offsets and types against the file; the header is valid after it.
        with safe_open(path, framework="numpy"):
            pass
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
    except SafetensorError as error:
        raise CheckpointError(
            f"{path}: is no complete safetensors file: {brief(str(error))}. Download it again"
        ) from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    header.pop("__metadata__", None)
    data = 8 + length
    return {
        key: StoredTensor(
            path,
            entry["dtype"],
            tuple(entry["shape"]),
            data + entry["data_offsets"][0],
            data + entry["data_offsets"][1],
        )
        for key, entry in header.items()
    }
