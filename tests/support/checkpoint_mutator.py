"""Damages checkpoint directories on purpose: one seed, one damaged file in it."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path
from typing import Any

from tests.support.gguf_mutator import INTEGERS

_HOSTILE: list[Any] = [
    *(None, True, False, "", "x", [], {}, [None], {"a": 1}, "../../etc/passwd", "/etc/passwd"),
    *(-1.5, 1e300, float("nan"), float("inf"), "9" * 5000, "\x00", [[[[]]]], *INTEGERS),
]


def _places(value: Any, found: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """Every container and key in a JSON value; of long ones the first few."""
    keys: list[Any] = []
    if isinstance(value, dict):
        keys = list(value)[:40]
    elif isinstance(value, list):
        keys = list(range(min(len(value), 10)))
    for key in keys:
        found.append((value, key))
        _places(value[key], found)
    return found


def _change_json(r: random.Random, value: Any) -> Any:
    for _ in range(r.choice([1, 1, 2])):
        where, key = r.choice(_places(value, []) or [([0], 0)])
        if r.random() < 0.2:
            del where[key]
        else:
            where[key] = r.choice(_HOSTILE)
    return value


def _change_bytes(r: random.Random, raw: bytes, head: int) -> bytes:
    data, what = bytearray(raw), r.randrange(4)
    at = r.randrange(max(1, min(head, len(data))))
    if what == 0:
        return bytes(data[: r.choice([at, r.randrange(len(data))])])
    if what == 1:
        data[at] ^= 1 << r.randrange(8)
    elif what == 2:
        data[at : at + 8] = r.randbytes(8)
    else:
        data[:8] = (r.choice(INTEGERS) % (1 << 64)).to_bytes(8, "little")
    return bytes(data)


def damage(directory: Path, seed: int) -> str:
    """Damage one file of a checkpoint in place; returns its name."""
    r = random.Random(seed)
    path = r.choice(sorted(p for p in directory.iterdir() if p.suffix in (".json", ".safetensors")))
    raw = path.read_bytes()
    if path.suffix == ".json" and r.random() < 0.85:
        raw = json.dumps(_change_json(r, json.loads(raw))).encode()
    elif path.suffix == ".safetensors" and r.random() < 0.7:
        (length,) = struct.unpack_from("<Q", raw)
        header = json.dumps(_change_json(r, json.loads(raw[8 : 8 + length]))).encode()
        raw = struct.pack("<Q", len(header)) + header + raw[8 + length :]
    else:
        raw = _change_bytes(r, raw, 2000)
    path.unlink()
    path.write_bytes(raw)
    return path.name
