"""Damages GGUF files on purpose: one seed, one damaged file.

    a sound file → its fields (header, metadata, tensor table) → one to three of them changed

A change is either structural, and the rest of the file stays sound around it (a hyper-parameter of
zero, a tensor twice, another type), or raw: bytes cut off, flipped or overwritten. What a seed
gives never depends on anything but the seed and the sound file.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from granite_gguf.ggml.types import GGMLType, row_bytes
from granite_gguf.storage.container import ValueType, open_container

ALIGNMENT = 32
MAX_CHANGES = 3

_SCALARS = {
    ValueType.UINT8: "<B",
    ValueType.INT8: "<b",
    ValueType.UINT16: "<H",
    ValueType.INT16: "<h",
    ValueType.UINT32: "<I",
    ValueType.INT32: "<i",
    ValueType.FLOAT32: "<f",
    ValueType.BOOL: "<B",
    ValueType.UINT64: "<Q",
    ValueType.INT64: "<q",
    ValueType.FLOAT64: "<d",
}
INTEGERS = [
    *(0, 1, 2, 3, 4, 5, 7, 8, 15, 16, 31, 32, 33, 63, 64, 100, 127, 128, 200, 255, 256),
    *(511, 512, 513, 1000, 4096, 65535, 65536, 10**6, 10**9),
    *(2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1, 2**64 - 32),
    *(-1, -2, -16, -(2**31), -(2**63)),
]
FLOATS = [0.0, -0.0, 1.0, -1.0, 1e-45, 1e-30, 1e30, 3e38, float("nan"), float("inf"), -float("inf")]
_STRINGS = [
    *("", " ", "\x00", "a" * 5000, "é", "\ud800", "1,2,3,-1", "1,2", "1,,2", "9" * 5000, "-1"),
    *("-99999999999999999999,1,2,3", "[]", "{}", "null", '{"model":{}}', "general.name"),
]
_RAW_STRINGS = [b"\xff\xfe", b"\xc0\x80", b"\xed\xa0\x80", b"\xf5", b"abc\x80"]


@dataclass
class Pair:
    """A metadata pair as it is written."""

    key: bytes
    type: int
    value: Any
    element: int | None = None


@dataclass
class Entry:
    """A row of the tensor table as it is written; ``data`` is where its bytes came from."""

    name: bytes
    shape: tuple[int, ...]
    type: int
    offset: int


@dataclass(repr=False)
class Sound:
    """A file taken apart, to be changed and put together again."""

    pairs: list[Pair]
    entries: list[Entry]
    data: bytes
    version: int = 3
    magic: bytes = b"GGUF"
    pair_count: int | None = None
    tensor_count: int | None = None
    fields: list[tuple[int, int]] = field(default_factory=list)

    def __repr__(self) -> str:
        return f"Sound of {len(self.pairs)} pairs, {len(self.entries)} tensors"

    def copy(self) -> Sound:
        pairs = [replace(pair) for pair in self.pairs]
        return replace(self, pairs=pairs, entries=[replace(e) for e in self.entries], fields=[])


def take_apart(path: Path) -> Sound:
    """Read a sound file."""
    container = open_container(path)
    pairs = [
        Pair(
            key.encode(),
            int(value.type),
            value.value,
            None if value.element_type is None else int(value.element_type),
        )
        for key, value in container.metadata.items()
    ]
    data, entries = bytearray(), []
    for name, info in container.tensors.items():
        entries.append(Entry(name.encode(), info.shape, int(info.type), len(data)))
        data += container.raw(name).tobytes()
        data += bytes(-len(data) % ALIGNMENT)
    return Sound(pairs, entries, bytes(data))


class _Writer:
    def __init__(self) -> None:
        self.out = bytearray()
        self.fields: list[tuple[int, int]] = []

    def number(self, layout: str, value: Any) -> None:
        size = struct.calcsize(layout)
        self.fields.append((len(self.out), size))
        if layout in ("<f", "<d"):
            self.out += struct.pack(layout, value)
        else:
            self.out += (int(value) % (1 << 8 * size)).to_bytes(size, "little")

    def string(self, value: str | bytes) -> None:
        raw = value if isinstance(value, bytes) else value.encode("utf-8", "surrogatepass")
        self.number("<Q", len(raw))
        self.out += raw

    def value(self, kind: int, value: Any) -> None:
        if kind == ValueType.STRING:
            self.string(value)
        elif kind in _SCALARS:
            self.number(_SCALARS[ValueType(kind)], value)


def put_together(sound: Sound) -> bytes:
    """The bytes of a file; ``sound.fields`` then lists where its numbers stand."""
    w = _Writer()
    w.out += sound.magic
    w.number("<I", sound.version)
    w.number("<Q", len(sound.entries) if sound.tensor_count is None else sound.tensor_count)
    w.number("<Q", len(sound.pairs) if sound.pair_count is None else sound.pair_count)
    for pair in sound.pairs:
        w.string(pair.key)
        w.number("<I", pair.type)
        if pair.element is None:
            w.value(pair.type, pair.value)
        else:
            w.number("<I", pair.element)
            w.number("<Q", len(pair.value))
            if pair.element == ValueType.STRING or len(pair.value) < 100:
                for value in pair.value:
                    w.value(pair.element, value)
            else:
                layout = _SCALARS[ValueType(pair.element)]
                size = 8 * struct.calcsize(layout)
                values = [int(value) % (1 << size) for value in pair.value]
                w.out += struct.pack(f"<{len(values)}{layout[1:].upper()}", *values)
    for entry in sound.entries:
        w.string(entry.name)
        w.number("<I", len(entry.shape))
        for n in entry.shape:
            w.number("<Q", n)
        w.number("<I", entry.type)
        w.number("<Q", entry.offset)
    w.out += bytes(-len(w.out) % ALIGNMENT)
    sound.fields = w.fields
    return bytes(w.out) + sound.data


# Structural changes; each returns what it did


def _scalar_pair(r: random.Random, s: Sound) -> str:
    scalars = [p for p in s.pairs if p.element is None]
    if not scalars:
        return "no scalar to change"
    pair = r.choice(scalars)
    if pair.type == ValueType.STRING:
        pair.value = r.choice([*_STRINGS, *_RAW_STRINGS])
    elif pair.type in (ValueType.FLOAT32, ValueType.FLOAT64):
        pair.value = r.choice(FLOATS)
    else:
        near = [pair.value + d for d in (-2, -1, 1, 2)] + [pair.value * 2, pair.value // 2]
        pair.value = r.choice([*INTEGERS, *near])
    return f"{pair.key!r} = {str(pair.value)[:40]!r}"


def _retyped_pair(r: random.Random, s: Sound) -> str:
    scalars = [p for p in s.pairs if p.element is None]
    if not scalars:
        return "no scalar to change"
    pair = r.choice(scalars)
    kind = r.choice(list(ValueType))
    if kind is ValueType.ARRAY:
        pair.type, pair.element = int(kind), int(r.choice([ValueType.UINT32, ValueType.STRING]))
        pair.value = [1, 2, 3] if pair.element == ValueType.UINT32 else ["1", "2"]
    elif kind is ValueType.STRING:
        pair.type, pair.value = int(kind), str(pair.value)[:50]
    else:
        pair.type, pair.value = int(kind), 1
    return f"{pair.key!r} as {kind.name}"


def _array_pair(r: random.Random, s: Sound) -> str:
    arrays = [p for p in s.pairs if p.element is not None and p.value]
    if not arrays:
        return "no array to change"
    pair = r.choice(arrays)
    values, what = list(pair.value), r.randrange(5)
    if what == 0:
        del values[r.randrange(len(values)) :]
    elif what == 1:
        del values[r.randrange(len(values))]
    elif what == 2:
        values[r.randrange(len(values))] = values[r.randrange(len(values))]
    elif what == 3:
        r.shuffle(values)
    else:
        at = r.randrange(len(values))
        textual = pair.element == ValueType.STRING
        values[at] = r.choice([*_STRINGS, *_RAW_STRINGS]) if textual else r.choice(INTEGERS)
    pair.value = values
    return f"{pair.key!r} array change {what}"


def _drop_pair(r: random.Random, s: Sound) -> str:
    return f"without {s.pairs.pop(r.randrange(len(s.pairs))).key!r}"


def _double_pair(r: random.Random, s: Sound) -> str:
    s.pairs.insert(r.randrange(len(s.pairs)), replace(pair := r.choice(s.pairs)))
    return f"{pair.key!r} twice"


def _rename_pair(r: random.Random, s: Sound) -> str:
    pair = r.choice(s.pairs)
    pair.key = r.choice([b"", b"\xff", pair.key + b"x", b"k" * 70000, r.choice(s.pairs).key])
    return "renamed pair"


def _drop_tensor(r: random.Random, s: Sound) -> str:
    return f"without {s.entries.pop(r.randrange(len(s.entries))).name!r}"


def _double_tensor(r: random.Random, s: Sound) -> str:
    s.entries.append(replace(entry := r.choice(s.entries)))
    return f"{entry.name!r} twice"


def _rename_tensor(r: random.Random, s: Sound) -> str:
    entry = r.choice(s.entries)
    entry.name = r.choice([b"", b"\xff", entry.name + b"x", b"n" * 5000, r.choice(s.entries).name])
    return "renamed tensor"


def _shape(r: random.Random, s: Sound) -> str:
    entry = r.choice(s.entries)
    shape, what = list(entry.shape), r.randrange(5)
    if what == 0:
        shape[r.randrange(len(shape))] = r.choice(INTEGERS)
    elif what == 1:
        shape.reverse()
    elif what == 2:
        shape.insert(r.randrange(len(shape) + 1), 1)
    elif what == 3:
        shape = [r.choice(INTEGERS) for _ in range(r.randrange(6))]
    else:
        shape += [1] * r.randrange(3)
    entry.shape = tuple(shape)
    return f"{entry.name!r} shape {shape}"


def _tensor_type(r: random.Random, s: Sound) -> str:
    entry = r.choice(s.entries)
    entry.type = r.choice([*map(int, GGMLType), 4, 5, 99, 2**31])
    return f"{entry.name!r} type {entry.type}"


def _smaller_type(r: random.Random, s: Sound) -> str:
    """Tensors whose bytes suffice for another type too: random contents of a usable type."""
    for entry in s.entries:
        kind = r.choice([GGMLType.Q8_0, GGMLType.F16, GGMLType.BF16, GGMLType.Q4_0, GGMLType.Q6_K])
        if entry.shape and entry.type == GGMLType.F32 and r.random() < 0.3:
            try:
                row_bytes(kind, entry.shape[0])
            except ValueError:
                continue
            entry.type = int(kind)
    return "smaller types"


def _offset(r: random.Random, s: Sound) -> str:
    entry = r.choice(s.entries)
    other = r.choice(s.entries)
    entry.offset = r.choice([*INTEGERS, other.offset, len(s.data), len(s.data) - 32, 32, 64])
    return f"{entry.name!r} offset {entry.offset}"


def _counts(r: random.Random, s: Sound) -> str:
    counts = [*INTEGERS, len(s.pairs) - 1, len(s.pairs) + 1, len(s.entries) - 1, len(s.entries) + 1]
    if r.random() < 0.5:
        s.pair_count = r.choice(counts)
    else:
        s.tensor_count = r.choice(counts)
    return f"counts {s.tensor_count} {s.pair_count}"


def _header(r: random.Random, s: Sound) -> str:
    s.version = r.choice([0, 1, 2, 4, 2**24, 3 << 24, 2**32 - 1])
    if r.random() < 0.3:
        s.magic = r.choice([b"GGML", b"FUGG", b"\x00" * 4])
    return f"version {s.version}"


def _alignment(r: random.Random, s: Sound) -> str:
    kind, value = r.choice([ValueType.UINT32, ValueType.UINT64]), r.choice(INTEGERS)
    s.pairs.append(Pair(b"general.alignment", int(kind), value))
    return f"alignment {value}"


def _weights(r: random.Random, s: Sound) -> str:
    """Contents of a tensor: not finite, huge, or noise."""
    data = bytearray(s.data)
    entry = r.choice(s.entries)
    name, count = entry.name, max(1, (len(data) - entry.offset) // 4)
    special = [struct.pack("<f", value) for value in FLOATS]
    special += [b"\x00\x7c", b"\x00\x7e", b"\x00\xfc", r.randbytes(4)]
    for _ in range(r.choice([1, 1, 8, 64])):
        at = entry.offset + 4 * r.randrange(min(count, 2000))
        raw = r.choice(special)
        data[at : at + len(raw)] = raw
    s.data = bytes(data)
    return f"{name!r} contents"


_STRUCTURAL: list[tuple[int, Callable[[random.Random, Sound], str]]] = [
    (8, _scalar_pair),
    (3, _retyped_pair),
    (4, _array_pair),
    (1, _drop_pair),
    (1, _double_pair),
    (1, _rename_pair),
    (1, _drop_tensor),
    (1, _double_tensor),
    (1, _rename_tensor),
    (4, _shape),
    (2, _tensor_type),
    (1, _smaller_type),
    (3, _offset),
    (1, _counts),
    (1, _header),
    (1, _alignment),
    (3, _weights),
]


# Raw changes


def _raw(r: random.Random, raw: bytes, fields: list[tuple[int, int]]) -> tuple[bytes, str]:
    head = fields[-1][0] + 8
    data, what = bytearray(raw), r.randrange(5)
    if what == 0:
        at = r.choice(fields)[0] + r.randrange(9) if r.random() < 0.7 else r.randrange(len(data))
        return bytes(data[:at]), f"cut at {at}"
    if what == 1:
        at = r.randrange(head)
        data[at] ^= 1 << r.randrange(8)
        return bytes(data), f"bit of byte {at}"
    if what == 2:
        at, size = r.choice(fields)
        value = r.choice(INTEGERS) % (1 << 8 * size)
        data[at : at + size] = value.to_bytes(size, "little")
        return bytes(data), f"field at {at} = {value}"
    if what == 3:
        at = r.choice(fields)[0]
        del data[at : at + r.randrange(1, 16)]
        return bytes(data), f"bytes missing at {at}"
    at = r.randrange(head)
    data[at : at + 8] = r.randbytes(8)
    return bytes(data), f"noise at {at}"


def mutate(sound: Sound, seed: int) -> tuple[bytes, str]:
    """A damaged file, and what was done to it."""
    r = random.Random(seed)
    changed, done = sound.copy(), []
    if r.random() < 0.75:
        weights, changes = zip(*((w, c) for w, c in _STRUCTURAL), strict=True)
        for change in r.choices(changes, weights, k=r.choice([1, 1, 1, 2, MAX_CHANGES])):
            if changed.pairs and changed.entries:
                done.append(change(r, changed))
    raw = put_together(changed)
    if not done or r.random() < 0.1:
        raw, what = _raw(r, raw, changed.fields)
        done.append(what)
    return raw, "; ".join(done)
