"""Which room may import which: data flows one way, and nothing goes round in a circle."""

from __future__ import annotations

import ast
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# A room is a folder, with the folders in it, or a module at the top of the package. Every room may
# import those of the ground, besides the ones beside its name.
GROUND = ("errors", "arrays", "closing", "files", "forks", "sizes", "demo", "named", "_version")
ROOMS = {
    "spec": "",
    "memory": "",
    "transcript": "",
    "passes": "transcript",
    "ctc": "",
    "fields": "spec",
    "ggml": "memory",
    "cuda": "ggml",
    "sound": "memory spec",
    "formats": "transcript",
    "storage": "fields ggml sound spec",
    "graph": "ggml spec",
    "hub": "",
    "tokenizer": "storage",
    "recorded": "ggml spec storage",
    "placing": "ggml memory spec storage",
    "evaluation": "model sound transcript",
    "words": "passes spec tokenizer transcript",
    "architecture": "cuda ggml passes placing recorded spec storage tokenizer",
    "stages": "ctc ggml graph passes placing sound spec storage tokenizer transcript",
    "nar": "architecture ctc cuda fields ggml graph passes placing recorded sound spec "
    "stages storage tokenizer transcript words",
    "speech": "architecture cuda fields ggml graph passes placing recorded sound spec stages "
    "storage tokenizer transcript words",
    "architectures": "architecture nar speech storage",
    "transcription": "memory passes sound transcript",
    "model": "architecture architectures ggml hub passes placing sound storage tokenizer "
    "transcript transcription",
    "granite_gguf": "converters evaluation model parity quantize sound stages transcript "
    "transcription",
    "converters": "architectures fields ggml hub nar sound spec speech storage",
    "quantize": "architectures ggml model sound spec storage",
    "bench": "cuda ggml memory model placing transcript",
    "places": "",
    "live": "model sound transcription",
    "serve": "formats live memory model passes places placing ray transcript transcription",
    "ray": "model passes places placing sound transcript transcription",
    "bulk": "places ray sound",
    "parity": "architectures ggml model recorded spec storage",
    "reference": "recorded",
    "cli": "architectures bench bulk converters cuda evaluation formats ggml hub live "
    "model parity passes placing quantize recorded serve sound storage transcript "
    "transcription",
    "__main__": "cli",
}
MOST_FLOORS = 12
# Beside the package. What writes checkpoints is a room of its own: training writes one, too, and
# the tests try both.
BESIDE = {
    "tests/support": "granite_gguf",
    "tests/fuzzing": "granite_gguf tests/support",
    "training": "granite_gguf tests/support",
    "benchmarks": "granite_gguf training",
    "tests": "granite_gguf tests/support tests/fuzzing training benchmarks",
}
PACKAGE = ("granite_gguf", "converters", "quantize")


def allowed() -> dict[str, set[str]]:
    ground: dict[str, set[str]] = {room: set() for room in GROUND}
    return ground | {room: set(others.split()) for room, others in ROOMS.items()}


@cache
def modules() -> dict[str, Path]:
    """All modules by their dotted names, those of the package as installed."""
    found = {}
    for folder in (*PACKAGE, *{room.partition("/")[0] for room in BESIDE}):
        for path in (ROOT / folder).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            if folder in PACKAGE[1:]:
                parts = (PACKAGE[0], *parts)
            found[".".join(parts).removesuffix(".__init__")] = path
    return found


@cache
def imports() -> dict[str, set[str]]:
    """What each module imports of the others, wherever in it the import stands."""
    found: dict[str, set[str]] = {}
    for name, path in modules().items():
        seen = found[name] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                seen |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.module and not node.level, f"{path}: imports are absolute"
                there = not in_package(node.module) or node.module in modules()
                assert there, f"{path}: there is no {node.module}"
                for alias in node.names:
                    member = f"{node.module}.{alias.name}"
                    seen.add(member if member in modules() else node.module)
        seen &= modules().keys() - {name}
    return found


def in_package(module: str) -> bool:
    return module.partition(".")[0] == PACKAGE[0]


def room(module: str) -> str:
    """Of a module of the package."""
    return module.split(".")[1] if "." in module else module


def room_beside(module: str) -> str:
    parts = module.replace(".", "/")
    return next((name for name in BESIDE if f"{parts}/".startswith(f"{name}/")), PACKAGE[0])


def test_rooms_import_what_they_may() -> None:
    used: dict[str, set[str]] = {name: set() for name in allowed()}
    for module, others in imports().items():
        for other in filter(in_package, others if in_package(module) else ()):
            if room(other) not in (room(module), *GROUND):
                used[room(module)].add(room(other))
                may = allowed()[room(module)]
                assert room(other) in may, f"{module} imports {other}, and may import {may}"
    assert used == allowed()  # nothing is allowed that nobody needs


def test_the_package_stands_alone_and_the_rest_on_it() -> None:
    used: dict[str, set[str]] = {name: set() for name in (PACKAGE[0], *BESIDE)}
    for module, others in imports().items():
        here = room_beside(module)
        used[here] |= {room_beside(other) for other in others} - {here}
    expected = {name: set(others.split()) for name, others in BESIDE.items()}
    assert used == {PACKAGE[0]: set(), **expected}


def test_floors() -> None:
    @cache
    def floor(name: str) -> int:
        return 1 + max(map(floor, allowed()[name]), default=0)

    tuple(TopologicalSorter(allowed()).static_order())
    assert max(map(floor, allowed())) <= MOST_FLOORS


def test_no_circle_of_files() -> None:
    tuple(TopologicalSorter(imports()).static_order())
    circle = {**imports(), "granite_gguf.errors": {"granite_gguf"}}
    with pytest.raises(CycleError):
        tuple(TopologicalSorter(circle).static_order())


def test_no_file_is_too_long_to_read() -> None:
    for name, path in modules().items():
        if in_package(name):
            assert len(path.read_text(encoding="utf-8").splitlines()) <= 450, path
