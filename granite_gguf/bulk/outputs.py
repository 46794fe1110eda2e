"""A folder of results in parts, each complete from the moment that it is there.

    part-<of what>.parquet or .jsonl    path, text, segments, words, error, duration, seconds
    _bulk.json                          what made them, so that nothing else is mixed in

A part is named after the recordings in it: a block that is done twice, because a machine was lost
while it told of the first time, is the same file twice.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from granite_gguf.errors import InputError, OutputError, brief
from granite_gguf.files import replacing
from granite_gguf.places import absolute, file_system, import_extra, is_address, reaching
from granite_gguf.ray import RESULTS

pa = import_extra("pyarrow")
pc = import_extra("pyarrow.compute")
pq = import_extra("pyarrow.parquet")

FORMS = ("parquet", "jsonl")
_AT_ONCE = 16  # parts that are read, each of which an object store takes a while to begin with
_SETTINGS = "_bulk.json"
_SCHEMA = pa.schema([pa.field("path", pa.string()), *RESULTS])


@dataclass(frozen=True)
class Output:
    """Where results are.

    Attributes:
        folder: an absolute path or an address.
        form: ``parquet`` or ``jsonl``.
    """

    folder: str
    form: str

    @classmethod
    def open(cls, name: str, form: str, settings: Mapping[str, Any]) -> Output:
        """The folder of a name, made where it is not there.

        Args:
            name: a path or an address.
            form: ``parquet`` or ``jsonl``.
            settings: what tells these results from others.

        Raises:
            OutputError: it holds other results or something else, or cannot be written.
        """
        if name.startswith("hf://"):
            raise OutputError(f"{name}: each part would be a commit; write elsewhere and upload")
        output = cls(absolute(name).rstrip("/"), form)
        wanted = {"form": form, **settings}
        text = json.dumps(wanted, indent=2, ensure_ascii=False) + "\n"
        with _writing(name):
            system, path = file_system(output.folder)
            system.makedirs(path, exist_ok=True)
            inside = [n for n in output._names() if not n.startswith(".")]
            if _SETTINGS not in inside:
                if inside:
                    raise OutputError(
                        f"{name}: has {brief(sorted(inside)[0])} in it and no results of bulk; "
                        "choose an empty folder or a new one"
                    )
                output._put(_SETTINGS, text.encode())
                return output
            found = output._get(_SETTINGS)
        if differing := _differences(found, text):
            raise OutputError(
                f"{name}: was begun with other options: {differing}; give the same ones, or choose "
                "another folder"
            )
        return output

    def parts(self) -> list[str]:
        """The names of the parts that are there."""
        with _writing(self.folder):
            return sorted(
                name for name in self._names()
                if name.startswith("part-") and name.endswith(f".{self.form}")
            )  # fmt: skip

    def write(self, results: Any) -> None:
        """Add a part.

        Args:
            results: a table with ``path`` and the columns of :data:`granite_gguf.ray.RESULTS`.

        Raises:
            OutputError: it cannot be written.
        """
        results = results.select(_SCHEMA.names).cast(_SCHEMA)
        names = "\0".join(results["path"].to_pylist())
        name = f"part-{blake2b(names.encode(), digest_size=12).hexdigest()}.{self.form}"
        with _writing(self.folder):
            self._put(name, self._encoded(results))

    def settle(self, *, retry: bool = False) -> Any:
        """What is done: each recording once, whatever happened before.

        A recording in two parts, as a process that was given up for lost may leave it, is taken
        out of the second.

        Args:
            retry: whether those that failed are taken out, to be done again.

        Returns:
            A pyarrow array of their paths.

        Raises:
            OutputError: a part cannot be read or written.
        """
        parts = self.parts()
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="granite-gguf-parts") as pool:
            tables = list(pool.map(lambda part: self._read(part, ["path", "error"]), parts))
        if not tables:
            return pa.array([], pa.string())
        rows = pa.concat_tables(tables)
        rows = rows.append_column("place", pa.array(range(rows.num_rows)))
        first = rows.group_by("path").aggregate([("place", "min")])["place_min"]
        good = pc.is_in(rows["place"], value_set=first.combine_chunks())
        if retry:
            good = pc.and_(good, pc.is_null(rows["error"]))
        start = 0
        for part, table in zip(parts, tables, strict=True):
            mask = good.slice(start, table.num_rows)
            start += table.num_rows
            if not pc.all(mask).as_py():
                if pc.any(mask).as_py():
                    self.write(self._read(part).filter(mask))
                self._remove(part)
        return rows.filter(good)["path"].combine_chunks()

    def _encoded(self, results: Any) -> bytes:
        if self.form == "jsonl":
            lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in results.to_pylist())
            return "".join(lines).encode("utf-8", "backslashreplace")
        buffer = io.BytesIO()
        pq.write_table(results, buffer, compression="zstd")
        return buffer.getvalue()

    def _read(self, part: str, columns: list[str] = _SCHEMA.names) -> Any:
        with _writing(f"{self.folder}/{part}"):
            data = self._get(part)
            if self.form == "parquet":
                return pq.read_table(io.BytesIO(data), columns=columns)
            rows = [json.loads(line) for line in data.decode().split("\n") if line]
            return pa.Table.from_pylist(rows, _SCHEMA).select(columns)

    # Whole files, here or elsewhere. An object store shows an object when it is complete.

    def _names(self) -> list[str]:
        system, path = file_system(self.folder)
        return [str(name).rpartition("/")[2] for name in system.ls(path, detail=False)]

    def _get(self, name: str) -> bytes:
        system, path = file_system(f"{self.folder}/{name}")
        return bytes(system.cat_file(path))

    def _put(self, name: str, data: bytes) -> None:
        if not is_address(self.folder):
            with replacing(Path(self.folder) / name, force=True) as temporary:
                temporary.write_bytes(data)
            return
        system, path = file_system(f"{self.folder}/{name}")
        system.pipe_file(path, data)

    def _remove(self, name: str) -> None:
        with _writing(f"{self.folder}/{name}"):
            system, path = file_system(f"{self.folder}/{name}")
            system.rm_file(path)


@contextmanager
def _writing(name: str) -> Iterator[None]:
    """What stands in the way of results is no fault of the input."""
    try:
        with reaching(name):
            yield
    except InputError as error:
        raise OutputError(str(error)) from error


def _differences(there: bytes, here: str) -> str:
    """Which settings differ, in words; nothing where none does."""
    try:
        began, asked = json.loads(there), json.loads(here)
        names = [name for name in {**began, **asked} if began.get(name) != asked.get(name)]
    except (ValueError, AttributeError, TypeError):
        return f"{_SETTINGS} is damaged"
    return ", ".join(f"{n} was {brief(began.get(n))} and is {brief(asked.get(n))}" for n in names)
