"""What to evaluate: recordings and their texts, from a manifest file or a folder.

A relative path of a manifest is relative to the manifest's folder and may not lead out of it, by
`..` or a link: a manifest that was downloaded names its own files only. Absolute paths are the
user's own words and are taken as they are.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from granite_gguf.errors import InputError
from granite_gguf.sound.reading import recordings_of

_AUDIO_FIELDS = ("audio", "audio_filepath", "file")
_COLUMNS = ("audio", "text", "language", "speaker")


@dataclass(frozen=True)
class Item:
    """One recording.

    Attributes:
        name: its path as the manifest writes it.
        path: where it is.
        text: what is said; None where the manifest does not tell.
        language: a code such as ``en``; None where the manifest does not tell.
        speaker: whoever speaks; None where the manifest does not tell.
    """

    name: str
    path: Path
    text: str | None
    language: str | None = None
    speaker: str | None = None


def read_items(source: Path) -> list[Item]:
    """The recordings of a manifest (JSON lines or TSV) or a folder with texts beside them.

    Args:
        source: ``.jsonl`` or ``.json`` with an object a line: ``audio``, ``text`` and optionally
            ``language`` and ``speaker``; any other file as TSV of the same columns, with or without
            a header; or a folder, searched with its subfolders, where ``a.txt`` holds the text of
            ``a.wav``.

    Raises:
        InputError: it cannot be read, names a file outside its folder or one twice, or is empty.
    """
    items = list(_folder_items(source) if source.is_dir() else _manifest_items(source))
    if not items:
        raise InputError(f"{source}: names no recordings")
    seen: set[Path] = set()
    for item in items:
        if item.path in seen:
            raise InputError(f"{source}: names {item.name} twice")
        seen.add(item.path)
    return items


def read_text_file(path: Path) -> str:
    """A UTF-8 text.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 text (at byte {error.start})") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error


def read_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The lines of a manifest or transcript file as a place for messages and fields.

    Raises:
        InputError: a line is not what the file's form asks for.
    """
    as_json = path.suffix in (".jsonl", ".json")
    lines = read_text_file(path).replace("\r\n", "\n").split("\n")
    for number, line in enumerate(lines, start=1):
        place = f"{path}, line {number}"
        if not line.strip():
            continue
        if as_json:
            yield place, _json_fields(place, line)
            continue
        cells = line.split("\t")
        if number == 1 and tuple(cell.lower() for cell in cells[:2]) == _COLUMNS[:2]:
            continue
        if len(cells) > len(_COLUMNS):
            raise InputError(f"{place}: has {len(cells)} columns, expected {', '.join(_COLUMNS)}")
        yield place, dict(zip(_COLUMNS, cells, strict=False))


def _json_fields(place: str, line: str) -> dict[str, Any]:
    try:
        fields = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"{place}: is not JSON ({error.msg}); one object a line") from None
    if not isinstance(fields, dict):
        raise InputError(f"{place}: is {type(fields).__name__}, expected an object")
    return fields


def audio_name(place: str, fields: dict[str, Any]) -> str:
    """The path a line names.

    Raises:
        InputError: it names none.
    """
    name = next((fields[key] for key in _AUDIO_FIELDS if key in fields), None)
    if not isinstance(name, str) or not name:
        raise InputError(f"{place}: field 'audio' is {name!r}, expected a path")
    return name


def optional_text(place: str, fields: dict[str, Any], key: str) -> str | None:
    """A string of a line, or None.

    Raises:
        InputError: it is something else.
    """
    value = fields.get(key)
    if value is not None and not isinstance(value, str):
        raise InputError(f"{place}: field {key!r} is {value!r}, expected a string")
    return value


def _manifest_items(path: Path) -> Iterator[Item]:
    for place, fields in read_rows(path):
        name = audio_name(place, fields)
        yield Item(
            name,
            _inside(path.parent, name, place),
            optional_text(place, fields, "text"),
            optional_text(place, fields, "language") or None,
            optional_text(place, fields, "speaker") or None,
        )


def _folder_items(folder: Path) -> Iterator[Item]:
    for path in recordings_of(folder):
        name = path.relative_to(folder).as_posix()
        sidecar = path.with_suffix(".txt")
        text = read_text_file(sidecar).rstrip("\r\n") if sidecar.is_file() else None
        yield Item(name, _inside(folder, name, str(folder)), text)


def _inside(folder: Path, name: str, place: str) -> Path:
    """Where a path of a manifest leads."""
    if Path(name).is_absolute():
        return Path(name)
    path, root = (folder / name).resolve(), folder.resolve()
    if not path.is_relative_to(root):
        raise InputError(
            f"{place}: {name!r} leads out of {folder}; move the file there, or write its absolute "
            "path"
        )
    return path
