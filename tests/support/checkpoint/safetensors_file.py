"""Writes safetensors files tensor by tensor, so that no tensor is ever whole in memory.

A file is an 8-byte little-endian header length, a JSON header padded with spaces to a multiple
of 8, then the data in the header's order.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from granite_gguf.arrays import FloatArray

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

AnyArray = npt.NDArray[Any]


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a file: its key, type and shape, and its values in order, part by part."""

    key: str
    dtype: str  # as safetensors spells it
    shape: tuple[int, ...]
    parts: Callable[[], Iterable[AnyArray]]

    @property
    def size(self) -> int:
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * ITEM_BYTES[self.dtype]


def bf16_bits(values: FloatArray) -> npt.NDArray[np.uint16]:
    """The bfloat16 patterns of finite `values`, rounded to nearest even."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    rounded: npt.NDArray[np.uint32] = (bits >> np.uint32(16)) & np.uint32(
        1
    )  # a tie goes to the even neighbour
    rounded += np.uint32(0x7FFF)
    rounded += bits
    rounded >>= np.uint32(16)
    return rounded.astype(np.uint16)


def _as(dtype: str) -> Callable[[AnyArray], AnyArray]:
    return lambda values: values.astype(dtype)


ITEM_BYTES: Mapping[str, int] = MappingProxyType({"BF16": 2, "F16": 2, "F32": 4, "I64": 8})
_ENCODE: Mapping[str, Callable[[AnyArray], AnyArray]] = MappingProxyType(
    {"BF16": bf16_bits, "F16": _as("<f2"), "F32": _as("<f4"), "I64": _as("<i8")}
)


def write_checkpoint(directory: Path, tensors: Iterable[StoredTensor], shards: int) -> None:
    """Write `tensors` as one file, or as `shards` files of about the same size and their index."""
    ordered = file_order(tensors)
    if shards == 1:
        write_file(directory / SINGLE_FILE, ordered)
        return
    weight_map: dict[str, str] = {}
    for number, part in enumerate(split(ordered, shards), 1):
        name = f"model-{number:05d}-of-{shards:05d}.safetensors"
        write_file(directory / name, part)
        weight_map |= {tensor.key: name for tensor in part}
    index = {
        "metadata": {"total_size": sum(tensor.nbytes for tensor in ordered)},
        "weight_map": dict(sorted(weight_map.items())),
    }
    (directory / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def file_order(tensors: Iterable[StoredTensor]) -> list[StoredTensor]:
    """Sort as the reference writer does: the widest type first, then by key."""
    return sorted(tensors, key=lambda tensor: (-ITEM_BYTES[tensor.dtype], tensor.key))


def split(tensors: Sequence[StoredTensor], shards: int) -> Iterator[list[StoredTensor]]:
    """Cut `tensors` into `shards` runs, none of them empty, of about the same number of bytes."""
    total = sum(tensor.nbytes for tensor in tensors)
    part: list[StoredTensor] = []
    done, cut = 0, 1
    for i, tensor in enumerate(tensors):
        must_cut = len(tensors) - i == shards - cut
        if part and cut < shards and (must_cut or done * shards >= total * cut):
            yield part
            part, cut = [], cut + 1
        part.append(tensor)
        done += tensor.nbytes
    yield part


def write_file(path: Path, tensors: Iterable[StoredTensor]) -> None:
    """Write one safetensors file, holding a single part at a time."""
    listed = list(tensors)
    with path.open("wb") as file:
        file.write(header(listed))
        for tensor in listed:
            written = 0
            for values in tensor.parts():
                written += values.size
                file.write(_ENCODE[tensor.dtype](values).tobytes())
            if written != tensor.size:
                raise AssertionError(f"{tensor.key}: {written} values for shape {tensor.shape}")


def header(tensors: Iterable[StoredTensor]) -> bytes:
    """Return everything of a file that precedes the data."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in tensors:
        start, end = end, end + tensor.nbytes
        entries[tensor.key] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text
