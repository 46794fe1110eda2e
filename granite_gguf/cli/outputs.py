"""Where the files of a transcription go: planned whole before the work begins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from string import Formatter

from granite_gguf.cli.inputs import Recording
from granite_gguf.errors import InputError, OutputError
from granite_gguf.files import check_target, replacing

DEFAULT_TEMPLATE = "{stem}.{format}"
_FIELDS = ("stem", "name", "parent", "index", "format")


class Existing(Enum):
    """What becomes of output files that are there before the work."""

    REFUSE = "refuse"
    SKIP = "skip"
    REPLACE = "replace"


@dataclass(frozen=True)
class Targets:
    """The output files of each recording, by format.

    Attributes:
        paths: for each recording, in order, a file for each format.
        existing: what becomes of files that are there already.
    """

    paths: Sequence[Mapping[str, Path]]
    existing: Existing

    def missing(self, recording: int) -> Sequence[str]:
        """The formats of a recording that are still to be written."""
        files = self.paths[recording].items()
        skip = self.existing is Existing.SKIP
        return [name for name, path in files if not (skip and path.exists())]

    def check(self, recording: int) -> None:
        """See, before the work, that its files may be written.

        Raises:
            OutputError: one exists that is to be kept, or cannot be a file's name.
        """
        for name in self.missing(recording):
            path = self.paths[recording][name]
            if path.parent.is_dir():
                check_target(path, force=self.existing is Existing.REPLACE)

    def write(self, recording: int, format_name: str, text: str) -> Path:
        """Write one file; it appears under its name when it is complete."""
        path = self.paths[recording][format_name]
        if self.existing is Existing.SKIP and path.exists():  # by another process, meanwhile
            return path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{path.parent}: cannot be made: {error.strerror}") from error
        with replacing(path, force=self.existing is Existing.REPLACE) as temporary:
            # Names of files that are not UTF-8 are escaped as JSON does it.
            temporary.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")
        return path


def plan_targets(
    recordings: Sequence[Recording],
    formats: Sequence[str],
    directory: Path,
    template: str,
    *,
    existing: Existing = Existing.REFUSE,
) -> Targets:
    """Name the file of every recording and format.

    Args:
        recordings: in order.
        formats: names of formats.
        directory: the output directory, made when the first file is written.
        template: with the fields ``{stem}`` and ``{name}`` of the recording's file name,
            ``{parent}`` its folder's name, ``{index}`` its number from 1, and ``{format}``.
        existing: what becomes of files that are there already; :meth:`Targets.check` looks.

    Raises:
        InputError: the template is malformed or leads out of the directory, two files would have
            one name, or a recording would be overwritten.
    """
    _check_template(template)
    taken: dict[Path, str] = {}
    sources = {r.path.resolve(): r.name for r in recordings if r.path is not None}
    paths = []
    for index, recording in enumerate(recordings, start=1):
        named = {}
        for name in formats:
            path = _target(recording, index, name, directory, template)
            place = path.resolve()
            if place in sources:
                raise InputError(f"{path}: would overwrite the recording {sources[place]}")
            if place in taken:
                raise InputError(
                    f"{path}: would hold the transcripts of both {taken[place]} and "
                    f"{recording.name}; tell them apart with --output-template, for example "
                    "'{parent}/{stem}.{format}' or '{index}-{stem}.{format}'"
                )
            taken[place] = recording.name
            named[name] = path
        paths.append(named)
    return Targets(paths, existing)


def _check_template(template: str) -> None:
    try:
        fields = {field for _, field, _, _ in Formatter().parse(template) if field is not None}
    except ValueError as error:
        raise InputError(f"--output-template is {template!r}: {error}") from None
    unknown = sorted(fields - set(_FIELDS))
    if unknown:
        raise InputError(
            f"--output-template is {template!r}: {{{unknown[0]}}} is none of its fields, which are "
            + ", ".join(f"{{{field}}}" for field in _FIELDS)
        )


def _target(
    recording: Recording, index: int, format_name: str, directory: Path, template: str
) -> Path:
    path = recording.path or Path("stdin")
    fields = {
        "stem": path.stem,
        "name": path.name,
        "parent": path.resolve().parent.name,
        "index": index,
        "format": format_name,
    }
    try:
        target = directory / template.format(**fields)
    except (ValueError, IndexError) as error:
        raise InputError(f"--output-template is {template!r}: {error}") from None
    if not target.resolve().is_relative_to(directory.resolve()) or target == directory:
        raise InputError(f"--output-template is {template!r}: {target} lies outside of {directory}")
    return target
