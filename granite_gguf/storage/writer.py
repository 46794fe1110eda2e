"""Writes GGUF files part by part: no tensor is ever held whole, no half-written file is left."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np

from granite_gguf.arrays import AnyArray
from granite_gguf.files import Progress, replacing, silent
from granite_gguf.ggml.types import GGMLType, row_bytes
from granite_gguf.storage.container import MetadataValue, ValueType
from granite_gguf.storage.keys import Keys
from granite_gguf.storage.large_pages import LargePageWriter

# A source's own alignment does not count: what is written here has the default one.
_WRITTEN_APART = (Keys.General.ARCHITECTURE, Keys.General.ALIGNMENT)


@dataclass(frozen=True)
class TensorSource:
    """A tensor to write.

    Attributes:
        name: its name in the file.
        shape: in ggml order.
        type: the type it is written as.
        parts: makes its contents, whole rows at a time, already in that type.
    """

    name: str
    shape: tuple[int, ...]
    type: GGMLType
    parts: Callable[[], Iterable[AnyArray]]

    @property
    def byte_count(self) -> int:
        return row_bytes(self.type, self.shape[0]) * int(np.prod(self.shape[1:], dtype=np.int64))


def write_gguf(
    path: Path,
    metadata: Mapping[str, MetadataValue],
    tensors: Sequence[TensorSource],
    *,
    force: bool = False,
    progress: Progress = silent,
) -> int:
    """Write a GGUF file, version 3, and return its size in bytes.

    Raises:
        OutputError: the file exists and ``force`` is not set, or cannot be written.
    """
    with replacing(path, force=force) as temporary:
        _write_head(temporary, metadata, tensors)
        with temporary.open("ab") as file:
            pages = LargePageWriter(file)
            _pad(pages, file.tell())
            total = sum(tensor.byte_count for tensor in tensors)
            written = 0
            for tensor in tensors:
                expected = written + tensor.byte_count
                for part in tensor.parts():
                    written += pages.write(np.ascontiguousarray(part).data)
                    progress(tensor.name, written, total)
                if written != expected:
                    raise AssertionError(f"{tensor.name}: {written - expected:+d} bytes written")
                _pad(pages, tensor.byte_count)
            pages.flush()
            os.fsync(file.fileno())
        size = temporary.stat().st_size
    return size


def _write_head(
    path: Path, metadata: Mapping[str, MetadataValue], tensors: Sequence[TensorSource]
) -> None:
    writer = gguf.GGUFWriter(path, metadata[Keys.General.ARCHITECTURE].value)
    for key, value in metadata.items():
        empty = value.type is ValueType.ARRAY and not value.value
        if key not in _WRITTEN_APART and not empty:
            writer.add_key_value(key, value.value, value.type, value.element_type)
    for tensor in tensors:
        writer.add_tensor_info(
            tensor.name,
            tuple(reversed(tensor.shape)),
            np.dtype(np.void),  # not looked at: the type is given
            tensor.byte_count,
            tensor.type,
        )
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
    finally:
        writer.close()


def _pad(pages: LargePageWriter, length: int) -> None:
    pages.write(memoryview(bytes(-length % int(gguf.GGUF_DEFAULT_ALIGNMENT))))
