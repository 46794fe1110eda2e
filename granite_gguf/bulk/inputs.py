"""What is to be transcribed: recordings by name, from files and folders here and elsewhere.

    folder, pattern → recordings, Parquet files
    list, JSON lines, Parquet of paths → recordings
    Parquet with contents → its rows, named file.parquet#0, #1, ...

    → a table: path (string), row (the number in a Parquet file, null for a recording of its own)

Only names are read, so that a table of millions fits in memory; contents are read where they are
transcribed.
"""

from __future__ import annotations

import glob
import json
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from granite_gguf.errors import InputError, brief
from granite_gguf.places import absolute, address, file_system, import_extra, is_address, reaching
from granite_gguf.sound.reading import AUDIO_SUFFIXES, recordings_of

pa = import_extra("pyarrow")
pc = import_extra("pyarrow.compute")
pq = import_extra("pyarrow.parquet")

ROWS = pa.schema({"path": pa.string(), "row": pa.int64()})
"""What :func:`find_rows` returns."""

PARQUET = ".parquet"
_LINES = (".jsonl", ".json", ".ndjson")
_PATHS = ("path", "audio_filepath", "audio", "file")
"""Columns and fields that may hold a path, the first of them that is there."""


def find_rows(name: str) -> Any:
    """The recordings that a name stands for, each once, in order.

    Args:
        name: a path or an address of a folder, a pattern, a recording, a Parquet file, JSON lines,
            or any other file, which is a list with a name a line. Relative names in a list are as
            seen from the current folder (from its own, where the list has an address), in JSON
            lines and Parquet as seen from the file's folder.

    Returns:
        A pyarrow Table like :data:`ROWS`.

    Raises:
        InputError: there is no recording, or something cannot be read.
    """
    found = _named(name)
    tables = [_rows(one, alone=found == [name]) for one in found]
    rows = pa.concat_tables(tables) if tables else ROWS.empty_table()
    if not rows.num_rows:
        raise InputError(f"{name}: names no recordings")
    places = rows.append_column("place", pa.array(range(rows.num_rows)))
    first = places.group_by("path").aggregate([("place", "min")])["place_min"]
    return rows.take(first.combine_chunks().sort())


def _named(name: str) -> list[str]:
    """The files of a folder or a pattern, or the name itself."""
    if not is_address(name):
        path = Path(name)
        if path.is_dir():
            files = [str(p) for p in recordings_of(path)] or _visible(
                sorted(map(str, path.rglob(f"*{PARQUET}"))), name
            )
            return _some(name, files, "folder")
        if glob.has_magic(name) and not path.exists():
            matches = sorted(glob.glob(name, recursive=True))  # noqa: PTH207 (may be absolute)
            return _some(name, [m for m in matches if Path(m).is_file()], "pattern")
        return [name]
    system, path_there = file_system(name)
    with reaching(name):
        if glob.has_magic(path_there):
            matches = sorted(system.glob(path_there))
            return _some(name, [address(name, m) for m in matches], "pattern")
        if not system.isdir(path_there):
            return [name]
        files = _visible([address(name, p) for p in sorted(system.find(path_there))], name)
    recordings = [f for f in files if PurePosixPath(f).suffix.lower() in AUDIO_SUFFIXES]
    return _some(name, recordings or [f for f in files if f.endswith(PARQUET)], "folder")


def _visible(files: Sequence[str], folder: str) -> list[str]:
    """Those that no dot at the beginning of a name hides."""
    return [
        f for f in files
        if not any(part.startswith(".") for part in f[len(folder) :].split("/"))
    ]  # fmt: skip


def _some(name: str, files: list[str], kind: str) -> list[str]:
    if not files:
        raise InputError(f"{name}: the {kind} has no recordings (.wav, .flac, .mp3, ...)")
    return files


def _rows(name: str, *, alone: bool) -> Any:
    suffix = PurePosixPath(name).suffix.lower()
    if suffix == PARQUET:
        return _parquet_rows(absolute(name))
    folder = absolute(name).rpartition("/")[0]
    if suffix in _LINES:
        return _table([absolute(path, folder) for path in _json_paths(name)])
    if alone and suffix not in AUDIO_SUFFIXES:
        seen_from = folder if is_address(name) else ""
        return _table([absolute(line, seen_from) for _, line in _lines(name)])
    return _table([absolute(name)])


def _table(paths: Sequence[str]) -> Any:
    return pa.table({"path": pa.array(paths, pa.string()),
                     "row": pa.nulls(len(paths), pa.int64())})  # fmt: skip


def _lines(name: str) -> Iterator[tuple[str, str]]:
    """The lines of a text that are not empty, each with its place for messages."""
    system, path = file_system(name)
    with reaching(name):
        data = system.cat_file(path)
    try:
        text = bytes(data).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{name}: is no recording by its name, and no list: not UTF-8 text (at byte "
            f"{error.start})"
        ) from None
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), start=1):
        if line.strip():
            yield f"{name}, line {number}", line


def _json_paths(name: str) -> Iterator[str]:
    for place, line in _lines(name):
        try:
            fields = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{place}: is not JSON ({error.msg}); one object a line") from None
        path = None
        if isinstance(fields, dict):
            path = next((fields[key] for key in _PATHS if key in fields), None)
        if not isinstance(path, str) or not path:
            raise InputError(
                f"{place}: is {brief(line)}, expected an object with a path as {_PATHS[0]!r}, "
                + " or ".join(map(repr, _PATHS[1:]))
            )
        if fields.get("offset"):
            raise InputError(
                f"{place}: is a part of a recording, from its offset {brief(fields['offset'])} on; "
                "here each is taken whole, or one stretch for all of them (clip): cut it first"
            )
        yield path


def _parquet_rows(name: str) -> Any:
    system, path = file_system(name)
    with reaching(name), system.open(path, "rb") as file:
        parquet = pq.ParquetFile(file)
        schema = parquet.schema_arrow
        if contents_column(schema) is not None:
            count = parquet.metadata.num_rows
            return pa.table({"path": pa.array([f"{name}#{n}" for n in range(count)], pa.string()),
                             "row": pa.array(range(count), pa.int64())})  # fmt: skip
        column = next((c for c in _PATHS if c in schema.names), None)
        if column is None or not pa.types.is_string(schema.field(column).type):
            raise InputError(
                f"{name}: has the columns {', '.join(schema.names)}; expected contents as 'bytes' "
                "or 'audio', or paths as " + ", ".join(map(repr, _PATHS))
            )
        paths = parquet.read(columns=[column])[column].to_pylist()
    empty = next((n for n, one in enumerate(paths) if not one), None)
    if empty is not None:
        raise InputError(f"{name}: row {empty} has no path as {column!r}")
    folder = name.rpartition("/")[0]
    return _table([absolute(one, folder) for one in paths])


def contents_column(schema: Any) -> str | None:
    """The column that holds files: ``bytes``, or ``audio`` as the library `datasets` has it."""
    for name in ("bytes", "audio"):
        if name in schema.names and (
            pa.types.is_binary(schema.field(name).type)
            or pa.types.is_large_binary(schema.field(name).type)
            or pa.types.is_struct(schema.field(name).type)
        ):
            return name
    return None


def read_contents(rows: Any) -> Iterator[Any]:
    """What :class:`granite_gguf.ray.Transcriber` takes for rows: their paths, and contents.

    Args:
        rows: a table like :data:`ROWS`.

    Yields:
        Tables of consecutive rows, those of a Parquet file with ``bytes``, a row group at a time.

    Raises:
        InputError: a Parquet file cannot be read.
    """
    plain = rows.filter(pc.is_null(rows["row"]))
    if plain.num_rows:
        yield plain.select(["path"])
    inside = rows.filter(pc.is_valid(rows["row"]))
    files: dict[str, dict[int, str]] = {}
    for path, row in zip(inside["path"].to_pylist(), inside["row"].to_pylist(), strict=True):
        files.setdefault(path.removesuffix(f"#{row}"), {})[row] = path
    for name, wanted in files.items():
        system, path = file_system(name)
        with reaching(name), system.open(path, "rb") as file:
            yield from _row_groups(pq.ParquetFile(file), wanted)


def _row_groups(parquet: Any, wanted: dict[int, str]) -> Iterator[Any]:
    column = contents_column(parquet.schema_arrow)
    start = 0
    for group in range(parquet.num_row_groups):
        end = start + parquet.metadata.row_group(group).num_rows
        numbers = sorted(number for number in wanted if start <= number < end)
        if numbers:
            found = parquet.read_row_group(group, columns=[column])[column]
            found = found.take([number - start for number in numbers]).to_pylist()
            contents = [one.get("bytes") if isinstance(one, dict) else one for one in found]
            yield pa.table({"path": pa.array([wanted[n] for n in numbers], pa.string()),
                            "bytes": pa.array(contents, pa.binary())})  # fmt: skip
        start = end
