"""Names of models: what a person writes, and which file of a repository it means."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from granite_gguf.errors import HubError
from granite_gguf.files import is_audio_part
from granite_gguf.hub.published import RECOMMENDED_REPOSITORY, RECOMMENDED_TYPES
from granite_gguf.sizes import megabytes

AUTO = "auto"
FORMS = "REPO/ID, REPO/ID:TYPE or REPO/ID:FILE.gguf, each with an optional @REVISION"

_PART = r"[A-Za-z0-9_][\w.-]*"
_NAME = re.compile(
    rf"(?P<repository>{_PART}/{_PART}|{AUTO})(?::(?P<selector>[^@:]+))?(?:@(?P<revision>[^@:]+))?"
)
_MEANT_FOR_THE_HUB = re.compile(rf"{_PART}/{_PART}[:@].*|{AUTO}[:@].*", re.DOTALL)


@dataclass(frozen=True)
class HubName:
    """A model on the Hub.

    Attributes:
        repository: ``owner/name``.
        selector: a file's name, which ends in ``.gguf``, or a type such as ``Q4_K``; None for the
            repository's only file or the recommended type.
        revision: branch, tag or commit; None for the repository's main branch.
    """

    repository: str
    selector: str | None = None
    revision: str | None = None

    @property
    def file(self) -> str | None:
        """The file, where the name says it exactly."""
        return self.selector if self.selector and is_gguf(self.selector) else None

    def __str__(self) -> str:
        selector = f":{self.selector}" if self.selector else ""
        return f"{self.repository}{selector}" + (f"@{self.revision}" if self.revision else "")


@dataclass(frozen=True)
class HubFile:
    """A file of a repository.

    Attributes:
        name: its path in the repository.
        size: in bytes.
        digest: of its contents as the Hub states it, in hexadecimal: SHA-256, or git's SHA-1 of
            small files. Empty where the Hub was not asked.
        path: where the cache has it, where the cache was asked.
    """

    name: str
    size: int
    digest: str = ""
    path: Path | None = None


@dataclass(frozen=True)
class Snapshot:
    """A repository at a commit, and what there is of its files.

    ``refs`` are the branches and tags that were at this commit when they were last asked for.
    """

    repository: str
    commit: str
    files: Sequence[HubFile] = ()
    refs: frozenset[str] = frozenset()

    def __str__(self) -> str:
        return f"{self.repository}@{self.commit[:12]}"


def parse_name(text: str) -> HubName | None:
    """What a name means on the Hub, or None for the path of a file.

    What exists is a path. So is what ends in ``.gguf`` without a colon, and whatever is no
    repository id.

    Raises:
        HubError: the name starts like one of the Hub's and goes on otherwise.
    """
    if _exists(text) or (is_gguf(text) and ":" not in text):
        return None
    match = _NAME.fullmatch(text)
    if match is None:
        if _MEANT_FOR_THE_HUB.fullmatch(text):
            raise HubError(f"{text}: there is no such file, and a model of the Hub is {FORMS}")
        return None
    repository, selector, revision = match.group("repository", "selector", "revision")
    if revision is not None and ".." in revision:  # leads out of the cache, and git has none
        raise HubError(f"{text}: {revision!r} is no revision: expected a branch, tag or commit")
    if repository != AUTO:
        return HubName(repository, selector, revision)
    if selector is not None:
        raise HubError(
            f"{text}: {AUTO} stands for {RECOMMENDED_REPOSITORY}:{RECOMMENDED_TYPES[0]}; for "
            f"another file write {RECOMMENDED_REPOSITORY}:{selector}"
        )
    return HubName(RECOMMENDED_REPOSITORY, RECOMMENDED_TYPES[0], revision)


def _exists(text: str) -> bool:
    try:
        return Path(text).exists()
    except (OSError, ValueError):  # too long for a path, or with a zero byte
        return False


def is_gguf(text: str) -> bool:
    """Whether a file is named as GGUF files are."""
    return text.lower().endswith(".gguf")


def choose_file(name: HubName, files: Sequence[HubFile], place: str) -> HubFile:
    """The file that a name means.

    A type matches whole parts of a file's name, in any case: ``Q4_K`` those of ``x-q4_k.gguf`` and
    ``x-q4_k-mini.gguf``, not of ``x-Q4_K_M.gguf``. Of several, the one that ends with it is meant.

    Args:
        name: what was asked for.
        files: all that there are; those that are no models are passed over.
        place: where they are, for messages.

    Raises:
        HubError: none or several match.
    """
    models = [file for file in files if _is_model(file)]
    wanted = name.selector
    if name.file is not None:
        found = [file for file in files if file.name == name.file]
        problem, models = f"has no file {name.file}", list(files)
    elif wanted is not None:
        found = _matches(wanted, models)
        count = f"{len(found)} GGUF files" if found else "no GGUF file"
        problem = f"has {count} whose name {'hold' if found else 'holds'} {wanted}"
    elif not models:
        raise HubError(f"{place}: has no GGUF files, so it is no model to run")
    else:
        found = models
        for kind in RECOMMENDED_TYPES:
            if len(found) > 1 and len(of_kind := _matches(kind, models)) == 1:
                found = of_kind
        problem = f"has {len(models)} GGUF files, say which"
    if len(found) != 1:
        raise HubError(f"{place}: {problem}. {_listing(name, found or models)}")
    return found[0]


def _matches(wanted: str, models: Sequence[HubFile]) -> list[HubFile]:
    part = rf"(?<![a-z0-9_]){re.escape(wanted.lower())}"
    stems = {file: PurePosixPath(file.name.lower()).stem for file in models}
    holding = [file for file, stem in stems.items() if re.search(rf"{part}(?![a-z0-9_])", stem)]
    ending = [file for file in holding if re.search(rf"{part}$", stems[file])]
    return ending if len(ending) == 1 else holding


def _is_model(file: HubFile) -> bool:
    beside = "imatrix" in file.name.lower() or is_audio_part(file.name)
    return is_gguf(file.name) and not beside


def audio_part(file: HubFile, files: Sequence[HubFile]) -> HubFile | None:
    """The other file of a pair for llama.cpp: the one with encoder and projector beside a model."""
    folder = PurePosixPath(file.name).parent
    found = [
        other for other in files
        if is_audio_part(other.name) and PurePosixPath(other.name).parent == folder
    ]  # fmt: skip
    return found[0] if len(found) == 1 and found[0] != file else None


def _listing(name: HubName, files: Sequence[HubFile]) -> str:
    shown = [f"{file.name} ({megabytes(file.size)})" for file in files if is_gguf(file.name)]
    if not shown:
        return "It has no GGUF file."
    return f"Write {name.repository}:FILE with one of: {', '.join(shown)}"
