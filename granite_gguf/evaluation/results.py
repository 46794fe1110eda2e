"""Results as JSON lines, one per recording: written at once, taken up again, or scored anew.

A line has the five fields of the Open ASR Leaderboard's manifests (``audio_filepath``,
``duration``, ``time``, ``text``, what is expected, and ``pred_text``, what was found), and beside
them what tells whose result it is. The file is appended to, not replaced: what an interrupted run
finished is the point of it. Of several lines for a recording the last holds, and alone remains when
a run comes to its end. A last line that was cut off is dropped.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from granite_gguf.errors import InputError, OutputError
from granite_gguf.evaluation.leaderboard import join_sessions, names_of
from granite_gguf.evaluation.manifest import Item, audio_name, optional_text, read_rows
from granite_gguf.files import replacing

Line = dict[str, Any]


@dataclass(frozen=True)
class Result:
    """What a model made of one recording.

    Attributes:
        text: the transcript; empty where it failed.
        duration: seconds of audio; None where it is not known.
        seconds: what it took: with others at work beside it, the seconds since the result before;
            None where not known.
        error: why it failed, or None.
    """

    text: str
    duration: float | None = None
    seconds: float | None = None
    error: str | None = None


def identity(path: Path) -> str:
    """What tells a file from a changed one without reading it all."""
    try:
        status = path.stat()
    except OSError:
        return "missing"
    return f"{status.st_size}:{status.st_mtime_ns}"


class ResultsFile:
    """The results of one model on one set, on disk where a path is given.

    Args:
        path: the file, or None.
        model: the model's file.
        dataset: the set's name.
        rounding: what the model rounds, see :attr:`granite_gguf.Model.rounding`.

    Raises:
        OutputError: the file is no results file, is of another model or of other rounding, or
            cannot be written.
    """

    def __init__(
        self, path: Path | None, model: Path, dataset: str, rounding: Mapping[str, str]
    ) -> None:
        self.path, self._rounding = path, dict(rounding)
        self._is_of = {"dataset": dataset, "model": model.name, "model_identity": identity(model)}
        self._known: dict[str, Line] = {}
        self._lines = 0
        if path is not None:
            self._open(path)

    def find(self, item: Item) -> Result | None:
        """The result of an unchanged recording that did not fail."""
        line = self._known.get(str(item.path))
        if line is None or line["error"] or line["audio_identity"] != identity(item.path):
            return None
        return Result(line["pred_text"], line["duration"], line["time"])

    def add(self, item: Item, result: Result) -> None:
        """Keep a result, at once, unless the file has it."""
        line = {
            "audio_filepath": str(item.path),
            "duration": result.duration,
            "time": result.seconds,
            "text": item.text,
            "pred_text": result.text,
            "language": item.language,
            "speaker": item.speaker,
            "error": result.error,
            "audio_identity": identity(item.path),
            **self._is_of,
            **self._rounding,
        }
        if self._known.get(str(item.path)) == line:
            return
        self._known[str(item.path)] = line
        if self.path is None:
            return
        self._lines += 1
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(_written(line))
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written: {error.strerror}") from error

    def finish(self) -> None:
        """Leave one line for each recording, for other readers count every line."""
        if self.path is None or self._lines == len(self._known):
            return
        with replacing(self.path, force=True) as temporary:
            temporary.write_text("".join(map(_written, self._known.values())), encoding="utf-8")
        self._lines = len(self._known)

    def _open(self, path: Path) -> None:
        if not path.parent.is_dir():
            raise OutputError(f"{path}: there is no directory {path.parent}")
        try:
            data = path.read_bytes() if path.exists() else b""
            whole = data[: data.rfind(b"\n") + 1]
            for number, line in enumerate(whole.splitlines(), start=1):
                self._take(f"{path}: line {number}", line)
            # Opened in any case, so that an unwritable place shows before the work.
            with path.open("ab") as file:
                file.truncate(len(whole))
        except OSError as error:
            raise OutputError(f"{path}: cannot be written: {error.strerror}") from error

    def _take(self, place: str, data: bytes) -> None:
        needed = ("pred_text", "duration", "time", "error", "audio_identity", "model_identity")
        try:
            line = json.loads(data)
            audio, model, _ = line["audio_filepath"], line["model"], [line[key] for key in needed]
        except (ValueError, KeyError, TypeError):
            raise OutputError(
                f"{place} is no result of `granite-gguf eval`; choose another file"
            ) from None
        ours = self._is_of
        if (model, line["model_identity"]) != (ours["model"], ours["model_identity"]):
            raise OutputError(
                f"{place} is a result of {model} ({line['model_identity']}), not of "
                f"{ours['model']} ({ours['model_identity']}); choose another file"
            )
        for name, wanted in self._rounding.items():
            if (made := line.get(name, wanted)) != wanted:
                raise OutputError(
                    f"{place} was made with {name} {made!r}, not {wanted!r}; choose another file"
                )
        self._known[audio] = line
        self._lines += 1


def _written(line: Line) -> str:
    return json.dumps(line, ensure_ascii=False) + "\n"


@dataclass(frozen=True)
class Recorded:
    """The results of one model on one set, read from a file.

    Attributes:
        model: its name.
        dataset: the set's name.
        results: by recording, what was expected of it with what was found.
    """

    model: str
    dataset: str
    results: list[tuple[Item, Result]]


def read_results(path: Path) -> Recorded:
    """Results of this command or of any other system, to be scored.

    Args:
        path: JSON lines with ``audio_filepath``, ``text``, ``pred_text`` and, where known,
            ``duration``, ``time``, ``language`` and ``speaker``. Lines without ``model`` and
            ``dataset`` belong to those that the file's name tells:
            ``MODEL_name_DATASET_name.jsonl`` or ``model/dataset.jsonl``.

    Raises:
        InputError: it cannot be read, a line lacks a field, or the lines are of several models.
    """
    found: dict[str, tuple[Item, Result]] = {}
    names: set[tuple[str, str]] = set()
    for place, fields in join_sessions(read_rows(path)):
        for key in ("text", "pred_text"):
            if key not in fields:
                raise InputError(f"{place}: has no field {key!r}, expected a text")
        name = audio_name(place, fields)
        text, said, language, speaker, error, model, dataset = (
            optional_text(place, fields, key) or None
            for key in ("text", "pred_text", "language", "speaker", "error", "model", "dataset")
        )
        duration, seconds = (_seconds(place, fields, key) for key in ("duration", "time"))
        item = Item(name, path.parent / name, text or "", language, speaker)
        found[name] = item, Result(said or "", duration, seconds, error)
        default = names_of(path)
        names.add((model or default[0], dataset or default[1]))
    if not names:
        raise InputError(f"{path}: has no results")
    if len(names) > 1:
        listed = ", ".join(sorted(f"{model} on {dataset}" for model, dataset in names))
        raise InputError(f"{path}: has results of {listed}, expected of one model on one set")
    return Recorded(*names.pop(), list(found.values()))


def _seconds(place: str, fields: Line, key: str) -> float | None:
    value = fields.get(key)
    if value is not None and (not isinstance(value, int | float) or value < 0):
        raise InputError(f"{place}: field {key!r} is {value!r}, expected seconds")
    return value


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
    texts: dict[str, str] = {}  # of several lines for a recording the last holds
    for place, row in read_rows(path):
        key = "pred_text" if "pred_text" in row else "text"
        texts[audio_name(place, row)] = optional_text(place, row, key) or ""
    by_path = {str(Path(name).resolve()): text for name, text in texts.items()} | texts
    by_name: dict[str, set[str]] = {}
    for name, text in texts.items():
        by_name.setdefault(Path(name).name, set()).add(text)
    found: dict[Path, str] = {}
    for item in items:
        exact = next((by_path[k] for k in (item.name, str(item.path)) if k in by_path), None)
        named = by_name.get(item.path.name, set())
        if exact is None and len(named) != 1:
            many = "several texts" if named else "no text"
            raise InputError(f"{path}: has {many} for {item.name}")
        found[item.path] = exact if exact is not None else next(iter(named))
    return found
