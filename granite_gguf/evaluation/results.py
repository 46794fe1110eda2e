"""Results as JSON lines, one per finished recording: written at once, and taken up again later.

The file is appended to, not replaced: what an interrupted run finished is the point of it. A last
line that was cut off is dropped.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from granite_gguf.errors import InputError, OutputError
from granite_gguf.evaluation.manifest import Item, audio_name, optional_text, read_rows


@dataclass(frozen=True)
class Result:
    """What a model made of one recording.

    Attributes:
        audio: its path.
        audio_identity: size and time of change of the file, or that it was missing.
        model: name of the model file.
        model_identity: size and time of change of it.
        text: the transcript; empty where it failed.
        duration: seconds of audio.
        seconds: seconds of computation.
        error: why it failed, or None.
    """

    audio: str
    audio_identity: str
    model: str
    model_identity: str
    text: str
    duration: float
    seconds: float
    error: str | None = None


def identity(path: Path) -> str:
    """What tells a file from a changed one without reading it all."""
    try:
        status = path.stat()
    except OSError:
        return "missing"
    return f"{status.st_size}:{status.st_mtime_ns}"


class ResultsFile:
    """The results of one model, on disk where a path is given.

    Raises:
        OutputError: the file is no results file, is of another model, or cannot be written.
    """

    def __init__(self, path: Path | None, model: Path) -> None:
        self.path = path
        self.model = model
        self.model_identity = identity(model)
        self._known: dict[str, Result] = {}
        if path is not None:
            self._open(path)

    def find(self, item: Item) -> Result | None:
        """The result of an unchanged recording that did not fail."""
        found = self._known.get(str(item.path))
        if found is None or found.error or found.audio_identity != identity(item.path):
            return None
        return found

    def add(self, result: Result) -> None:
        """Keep a result, at once."""
        self._known[result.audio] = result
        if self.path is None:
            return
        line = json.dumps(asdict(result), ensure_ascii=False)
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written: {error.strerror}") from error

    def _open(self, path: Path) -> None:
        if not path.parent.is_dir():
            raise OutputError(f"{path}: there is no directory {path.parent}")
        try:
            data = path.read_bytes() if path.exists() else b""
            whole = data[: data.rfind(b"\n") + 1]
            for number, line in enumerate(whole.splitlines(), start=1):
                self._take(path, number, line)
            # Opened in any case, so that an unwritable place shows before the work.
            with path.open("ab") as file:
                file.truncate(len(whole))
        except OSError as error:
            raise OutputError(f"{path}: cannot be written: {error.strerror}") from error

    def _take(self, path: Path, number: int, line: bytes) -> None:
        try:
            values = json.loads(line)
            result = Result(**{field.name: values[field.name] for field in fields(Result)})
        except (ValueError, KeyError, TypeError):
            raise OutputError(
                f"{path}: line {number} is no result of `granite-gguf eval`; choose another file"
            ) from None
        if (result.model, result.model_identity) != (self.model.name, self.model_identity):
            raise OutputError(
                f"{path}: line {number} is a result of {result.model} "
                f"({result.model_identity}), not of {self.model.name} ({self.model_identity}); "
                "choose another file"
            )
        self._known[result.audio] = result


def read_transcripts(path: Path, items: Iterable[Item]) -> dict[Path, str]:
    """The texts that another file has for these recordings.

    Args:
        path: a results file, or the output of ``granite-gguf transcribe``, plain or ``--json``
            (then the name ends in ``.jsonl``).
        items: the recordings. Each is found by its path, or by its file name where only one
            transcript has it.

    Raises:
        InputError: the file cannot be read, or has no text for a recording, or several.
    """
    by_name: dict[str, list[str]] = {}
    by_path: dict[str, str] = {}
    for place, row in read_rows(path):
        name, text = audio_name(place, row), optional_text(place, row, "text") or ""
        by_path[name] = by_path[str(Path(name).resolve())] = text
        by_name.setdefault(Path(name).name, []).append(text)
    found: dict[Path, str] = {}
    for item in items:
        exact = next((by_path[k] for k in (item.name, str(item.path)) if k in by_path), None)
        named = set(by_name.get(item.path.name, ()))
        if exact is None and len(named) != 1:
            many = "several texts" if named else "no text"
            raise InputError(f"{path}: has {many} for {item.name}")
        found[item.path] = exact if exact is not None else named.pop()
    return found
