"""Reads the GGUF container: header, metadata and tensor table, over a memory map.

Knows nothing of any architecture. A file may come from a stranger, so every count, length and
offset is checked against the file's size before it is used, and no tensor can reach beyond it.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (versions 2 and 3).
"""

from __future__ import annotations

import errno
import mmap
import os
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

from granite_gguf.arrays import FloatArray
from granite_gguf.errors import ModelFileError, OutOfMemoryError, brief
from granite_gguf.ggml.types import BLOCK_SIZES, GGMLType
from granite_gguf.sizes import megabytes
from granite_gguf.storage.keys import Keys
from granite_gguf.storage.large_pages import ask_for_large_pages

MAX_DIMENSIONS = 4
MAX_METADATA_PAIRS = 1 << 16
MAX_TENSORS = 1 << 20
MAX_KEY_BYTES = 65535  # the format's limit
MAX_NAME_BYTES = 63  # ggml's limit

ValueType = gguf.GGUFValueType

_SCALARS: dict[gguf.GGUFValueType, struct.Struct] = {
    ValueType.UINT8: struct.Struct("<B"),
    ValueType.INT8: struct.Struct("<b"),
    ValueType.UINT16: struct.Struct("<H"),
    ValueType.INT16: struct.Struct("<h"),
    ValueType.UINT32: struct.Struct("<I"),
    ValueType.INT32: struct.Struct("<i"),
    ValueType.FLOAT32: struct.Struct("<f"),
    ValueType.BOOL: struct.Struct("<?"),
    ValueType.UINT64: struct.Struct("<Q"),
    ValueType.INT64: struct.Struct("<q"),
    ValueType.FLOAT64: struct.Struct("<d"),
}

_TYPES: dict[type, gguf.GGUFValueType] = {
    bool: ValueType.BOOL,
    int: ValueType.UINT32,
    float: ValueType.FLOAT32,
    str: ValueType.STRING,
}


@dataclass(frozen=True)
class MetadataValue:
    """A typed value; arrays carry their element type and a list, strings are ``str``."""

    type: gguf.GGUFValueType
    value: Any
    element_type: gguf.GGUFValueType | None = None

    @classmethod
    def of(cls, value: bool | int | float | str) -> MetadataValue:
        """A flag, a 32-bit count, a float32 or a string."""
        return cls(_TYPES[type(value)], value)

    @classmethod
    def strings(cls, values: Iterable[str]) -> MetadataValue:
        """An array of strings."""
        return cls(ValueType.ARRAY, list(values), ValueType.STRING)

    @classmethod
    def integers(cls, values: Iterable[int]) -> MetadataValue:
        """An array of 32-bit integers."""
        return cls(ValueType.ARRAY, list(values), ValueType.INT32)


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor lies. ``shape`` is in ggml order, ``offset`` from the start of the file.

    ``name`` is what the file calls it.
    """

    name: str
    shape: tuple[int, ...]
    type: GGMLType
    offset: int
    byte_count: int


@dataclass(frozen=True)
class Container:
    """An opened GGUF file. ``data`` shows the bytes of ``mapped``, the whole file.

    A model may lie in two: the metadata and tensors of the one ``beside`` it are then here, too.
    """

    path: Path
    version: int
    alignment: int
    metadata: dict[str, MetadataValue]
    tensors: dict[str, TensorInfo]
    data: npt.NDArray[np.uint8]
    mapped: mmap.mmap
    beside: Container | None = None

    @property
    def files(self) -> tuple[Container, ...]:
        """This file, and the one beside it."""
        return (self,) if self.beside is None else (self, self.beside)

    def holder(self, name: str) -> Container:
        """The file that a tensor lies in."""
        other = self.beside
        return self if other is None or name not in other.tensors else other

    def text(self, key: str) -> str | None:
        """A string of the metadata, or None."""
        found = self.metadata.get(key)
        return found.value if found is not None and found.type is ValueType.STRING else None

    def strings(self, key: str) -> list[str] | None:
        """A string array of the metadata, or None."""
        found = self.metadata.get(key)
        textual = found is not None and found.element_type is ValueType.STRING
        return list(found.value) if found is not None and textual else None

    def shape(self, name: str) -> tuple[int, ...] | None:
        """The shape of a tensor, or None where there is none of the name."""
        info = self.tensors.get(name)
        return None if info is None else info.shape

    def raw(self, name: str) -> npt.NDArray[np.uint8]:
        """The bytes of a tensor, as a view of the map."""
        info = self.tensors[name]
        return self.holder(name).data[info.offset : info.offset + info.byte_count]

    def read(self, name: str, start: int, count: int) -> npt.NDArray[np.uint8]:
        """Some bytes of a tensor, read from the file.

        Unlike the map's, pages read so do not count as memory of the process.
        """
        with self.holder(name).path.open("rb", buffering=0) as file:
            data = os.pread(file.fileno(), count, self.tensors[name].offset + start)
        return np.frombuffer(data, np.uint8)

    def release(self, name: str) -> None:
        """Let go of the memory that reading a tensor has filled; it is read anew when needed."""
        info = self.tensors[name]
        start = -(-info.offset // mmap.PAGESIZE) * mmap.PAGESIZE
        end = (info.offset + info.byte_count) // mmap.PAGESIZE * mmap.PAGESIZE
        self.holder(name)._release(start, end)

    def release_all(self) -> None:
        """Let go of all that has been read."""
        for file in self.files:
            file._release(0, len(file.mapped))

    def _release(self, start: int, end: int) -> None:
        if hasattr(mmap, "MADV_DONTNEED") and end > start:
            self.mapped.madvise(mmap.MADV_DONTNEED, start, end - start)


class _Cursor:
    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path = path
        self.data = data
        self.position = 0

    def fail(self, problem: str) -> ModelFileError:
        return ModelFileError(
            f"{self.path}: {problem} (at byte {self.position} of {len(self.data)}). "
            "The file is damaged or was not downloaded completely"
        )

    def need(self, count: int, what: str) -> None:
        if count > len(self.data) - self.position:
            raise self.fail(f"ends inside {what}")

    def scalar(self, layout: struct.Struct, what: str) -> Any:
        self.need(layout.size, what)
        (value,) = layout.unpack_from(self.data, self.position)
        self.position += layout.size
        return value

    def u32(self, what: str) -> int:
        return int(self.scalar(_SCALARS[ValueType.UINT32], what))

    def u64(self, what: str) -> int:
        return int(self.scalar(_SCALARS[ValueType.UINT64], what))

    def string(self, what: str, longest: int | None = None) -> str:
        length = self.u64(what)
        self.need(length, what)
        if longest is not None and length > longest:
            raise self.fail(f"{what} has {length} bytes, expected at most {longest}")
        raw = self.data[self.position : self.position + length]
        self.position += length
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            raise self.fail(f"{what} is not UTF-8") from None

    def value_type(self, what: str) -> gguf.GGUFValueType:
        number = self.u32(what)
        try:
            return ValueType(number)
        except ValueError:
            raise self.fail(f"{what} has the unknown value type {number}") from None

    def value(self, kind: gguf.GGUFValueType, what: str) -> Any:
        return self.string(what) if kind is ValueType.STRING else self.scalar(_SCALARS[kind], what)

    def array(self, kind: gguf.GGUFValueType, what: str) -> list[Any]:
        count = self.u64(what)
        if kind is ValueType.ARRAY:
            raise self.fail(f"{what} is an array of arrays")
        if kind is ValueType.STRING:
            self.need(count * 8, what)  # at least the length of each
            return [self.string(what) for _ in range(count)]
        layout = _SCALARS[kind]
        self.need(count * layout.size, what)
        start = self.position
        self.position += count * layout.size
        return list(struct.unpack_from(f"<{count}{layout.format[1:]}", self.data, start))


def _read_metadata(cursor: _Cursor, count: int) -> dict[str, MetadataValue]:
    metadata: dict[str, MetadataValue] = {}
    for _ in range(count):
        key = cursor.string("a metadata key", MAX_KEY_BYTES)
        what = f"the metadata key {brief(key)}"
        if key in metadata:
            raise cursor.fail(f"has {what} twice")
        kind = cursor.value_type(what)
        if kind is ValueType.ARRAY:
            element = cursor.value_type(what)
            metadata[key] = MetadataValue(kind, cursor.array(element, what), element)
        else:
            metadata[key] = MetadataValue(kind, cursor.value(kind, what))
    return metadata


def _read_tensor_info(cursor: _Cursor) -> TensorInfo:
    name = cursor.string("a tensor name", MAX_NAME_BYTES)
    what = f"the tensor {name!r}"
    dimensions = cursor.u32(what)
    if not 1 <= dimensions <= MAX_DIMENSIONS:
        raise cursor.fail(f"tensor {name!r} has {dimensions} dimensions, expected 1 to 4")
    shape = tuple(cursor.u64(what) for _ in range(dimensions))
    number = cursor.u32(what)
    try:
        kind = GGMLType(number)
    except ValueError:
        raise cursor.fail(f"tensor {name!r} has the unknown type {number}") from None
    offset = cursor.u64(what)
    block = BLOCK_SIZES[kind]
    if min(shape) < 1 or shape[0] % block.elements:
        raise cursor.fail(f"tensor {name!r} of type {kind.name} cannot have the shape {shape}")
    return TensorInfo(name, shape, kind, offset, prod(shape) // block.elements * block.bytes)


def _place(cursor: _Cursor, info: TensorInfo, data_start: int, alignment: int) -> TensorInfo:
    if info.offset % alignment:
        raise cursor.fail(f"tensor {info.name!r} is not aligned to {alignment} bytes")
    offset = data_start + info.offset
    if offset + info.byte_count > len(cursor.data):
        raise cursor.fail(f"tensor {info.name!r} reaches beyond the end of the file")
    return TensorInfo(info.name, info.shape, info.type, offset, info.byte_count)


def _map(path: Path) -> mmap.mmap:
    try:
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except ValueError:
        raise ModelFileError(f"{path}: is empty, expected a GGUF file") from None
    except IsADirectoryError:
        raise ModelFileError(f"{path}: is a directory, expected a GGUF file") from None
    except FileNotFoundError:
        raise ModelFileError(f"{path}: no such file") from None
    except OSError as error:
        if error.errno == errno.ENOMEM:
            size = path.stat().st_size
            raise OutOfMemoryError(
                f"{path}: the system refuses to map its {megabytes(size)}: the address space is "
                "limited (ulimit -v). Raise the limit, or use a file of a smaller type"
            ) from error
        raise ModelFileError(f"{path}: cannot be read: {error.strerror}") from error
    ask_for_large_pages(mapped)
    return mapped


def open_container(path: Path) -> Container:
    """Map a GGUF file and read everything but the tensors' contents.

    Raises:
        ModelFileError: the file cannot be read, is no GGUF file or is damaged.
    """
    data = _map(path)
    cursor = _Cursor(path, data)
    if data[:4] != b"GGUF":
        raise ModelFileError(f"{path}: is not a GGUF file: it starts with {bytes(data[:4])!r}")
    cursor.position = 4
    version = cursor.u32("the header")
    if version not in (2, 3):
        hint = "; it is big-endian" if version in (2 << 24, 3 << 24) else ""
        raise ModelFileError(f"{path}: GGUF version {version} is not supported, only 2 and 3{hint}")
    tensor_count, pair_count = cursor.u64("the header"), cursor.u64("the header")
    if tensor_count > MAX_TENSORS or pair_count > MAX_METADATA_PAIRS:
        raise cursor.fail(f"claims {tensor_count} tensors and {pair_count} metadata pairs")
    metadata = _read_metadata(cursor, pair_count)
    infos = [_read_tensor_info(cursor) for _ in range(tensor_count)]
    alignment = _alignment(cursor, metadata)
    data_start = -(-cursor.position // alignment) * alignment
    tensors: dict[str, TensorInfo] = {}
    for info in infos:
        if info.name in tensors:
            raise cursor.fail(f"has the tensor {info.name!r} twice")
        tensors[info.name] = _place(cursor, info, data_start, alignment)
    return Container(
        path, version, alignment, metadata, tensors, np.frombuffer(data, dtype=np.uint8), data
    )


def join(file: Container, beside: Container) -> Container:
    """Two files as one, of which the first one's metadata counts where both say something.

    Raises:
        ModelFileError: both hold a tensor of the same name.
    """
    twice = file.tensors.keys() & beside.tensors.keys()
    if twice:
        raise ModelFileError(
            f"{file.path} and {beside.path}: both hold the tensor {min(twice)!r}; expected the two "
            "parts of one model"
        )
    return replace(
        file,
        metadata={**beside.metadata, **file.metadata},
        tensors={**file.tensors, **beside.tensors},
        beside=beside,
    )


def _alignment(cursor: _Cursor, metadata: dict[str, MetadataValue]) -> int:
    value = metadata.get(Keys.General.ALIGNMENT)
    if value is None:
        return int(gguf.GGUF_DEFAULT_ALIGNMENT)
    alignment = value.value
    if value.type is not ValueType.UINT32 or alignment < 8 or alignment & (alignment - 1):
        raise cursor.fail(
            f"{Keys.General.ALIGNMENT} is {brief(alignment)}, expected a power of two from 8"
        )
    return int(alignment)


def to_float32(raw: npt.NDArray[np.uint8], kind: GGMLType, shape: tuple[int, ...]) -> FloatArray:
    """Decode a tensor's bytes into float32 of the numpy shape (``shape`` reversed).

    The decoders are gguf-py's.
    """
    decode: Callable[..., Any] = gguf.quants.dequantize
    rows = raw.reshape(prod(shape[1:]), -1)
    if kind is GGMLType.F32:
        values = rows.view(np.float32)
    elif kind is GGMLType.F16:
        values = rows.view(np.float16).astype(np.float32)
    else:
        with np.errstate(all="ignore"):  # a damaged scale gives NaN, which is the answer
            values = decode(rows, kind)
    return np.ascontiguousarray(values, dtype=np.float32).reshape(tuple(reversed(shape)))
