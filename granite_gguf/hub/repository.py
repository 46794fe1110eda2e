"""Asks the Hub what a repository holds, or the cache where the Hub cannot be asked."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, constants, hf_hub_download, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import (
    FileMetadataError,
    HFValidationError,
    OfflineModeIsEnabled,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import repo_folder_name

from granite_gguf.errors import HubError
from granite_gguf.files import Progress
from granite_gguf.hub.cached import cached_files
from granite_gguf.hub.download import Transfer, download
from granite_gguf.hub.faults import FAULTS, HTTP_ERROR, explain, is_passing
from granite_gguf.hub.names import HubFile, HubName, choose_file
from granite_gguf.sizes import megabytes

_COMMIT = re.compile(r"[0-9a-f]{40}")
_DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_SHORT = 12  # characters of a commit that are shown


@dataclass(frozen=True)
class _Snapshot:
    """A repository at a commit."""

    repository: str
    commit: str
    files: list[HubFile]

    def __str__(self) -> str:
        return f"{self.repository}@{self.commit[:_SHORT]}"


def fetch(name: HubName, note: Callable[[str], None], progress: Progress) -> Path:
    """The file that a name means, from the cache or downloaded into it.

    Raises:
        HubError: there is none, or it cannot be had.
    """
    revision = name.revision or constants.DEFAULT_REVISION
    if name.file and _COMMIT.fullmatch(revision):  # nothing that the Hub could tell about it
        path = _cached(name.repository, name.file, revision)
        if path is not None:
            return _use(path, _Snapshot(name.repository, revision, []), name.file, note)
    try:
        snapshot = _ask(name, revision)
    except (RevisionNotFoundError, HFValidationError) as error:
        raise HubError(f"{name}: {explain(error, revision)}{_hint(name)}") from error
    except FAULTS as error:  # no network, or a repository that is gone: what is here still runs
        return _from_cache(name, revision, error, note)
    file = choose_file(name, snapshot.files, str(snapshot))
    path = _cached(name.repository, file.name, snapshot.commit)
    if path is None:
        path = _download(snapshot, file, note, progress)
    else:
        _use(path, snapshot, file.name, note)
    if revision != snapshot.commit:
        # Only lets the revision be found again offline, which a cache that may not be written,
        # shared by many users, does without.
        with suppress(OSError):
            _remember(snapshot, revision)
    return path


def _use(
    path: Path, snapshot: _Snapshot, file: str, note: Callable[[str], None], why: str = ""
) -> Path:
    note(f"using {file} of {snapshot} from the cache" + (f": {why}" if why else ""))
    return path


def _hint(name: HubName) -> str:
    return "; there is no local file of this name either" if str(name) == name.repository else ""


def _ask(name: HubName, revision: str) -> _Snapshot:
    try:
        info = HfApi().model_info(
            name.repository,
            revision=revision,
            files_metadata=True,
            timeout=constants.HF_HUB_ETAG_TIMEOUT,
        )
    except (HFValidationError, HTTP_ERROR):
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise FileMetadataError("no JSON of a repository") from error
    files = []
    for sibling in info.siblings or ():
        lfs = sibling.lfs
        digest = lfs.sha256 if lfs else sibling.blob_id
        size = lfs.size if lfs else sibling.size
        # The digest becomes the name of a file in the cache.
        if digest and _DIGEST.fullmatch(digest) and size is not None:
            files.append(HubFile(sibling.rfilename, size, digest))
    if info.sha is None or not _COMMIT.fullmatch(info.sha):
        raise FileMetadataError("no commit of the repository")
    return _Snapshot(name.repository, info.sha, files)


def _cached(repository: str, file: str, commit: str) -> Path | None:
    found = try_to_load_from_cache(repository, file, revision=commit)
    return Path(found) if isinstance(found, str) else None


def _from_cache(
    name: HubName, revision: str, error: BaseException, note: Callable[[str], None]
) -> Path:
    reason = explain(error, revision)
    found = [
        one
        for one in cached_files(name.repository)
        if one.commit == revision or revision in one.refs
    ]
    if not found:
        asked = not isinstance(error, OfflineModeIsEnabled)
        where = ", and it is not in the cache" if asked and is_passing(error) else ""
        raise HubError(f"{name}: {reason}{where}{_hint(name)}") from error
    snapshot = _Snapshot(name.repository, found[0].commit, [one.file for one in found])
    try:
        file = choose_file(name, snapshot.files, f"{snapshot} in the cache")
    except HubError as missing:
        raise HubError(f"{name}: {reason}. {missing}") from error
    path = next(one.path for one in found if one.file == file)
    why = "" if isinstance(error, OfflineModeIsEnabled) else reason
    return _use(path, snapshot, file.name, note, why)


def _download(
    snapshot: _Snapshot, file: HubFile, note: Callable[[str], None], progress: Progress
) -> Path:
    folder = repo_folder_name(repo_id=snapshot.repository, repo_type="model")
    cache = Path(constants.HF_HUB_CACHE)
    transfer = Transfer(
        file,
        f"{file.name} of {snapshot}",
        hf_hub_url(snapshot.repository, file.name, revision=snapshot.commit),
        cache / folder / "blobs" / file.digest,
        cache / ".locks" / folder / f"{file.digest}.lock",
    )
    if not transfer.blob.exists():
        arrived = transfer.received()
        note(
            f"downloading {file.name} ({megabytes(file.size)}) from {snapshot}"
            + (f", {megabytes(arrived)} of it are here already" if arrived else "")
        )
        download(transfer, progress)
    try:
        # Finds the blob, and gives it its name in the snapshot.
        return Path(hf_hub_download(snapshot.repository, file.name, revision=snapshot.commit))
    except FAULTS as error:
        raise HubError(f"{transfer.source}: {explain(error, snapshot.commit)}") from error


def _remember(snapshot: _Snapshot, revision: str) -> None:
    """Note which commit a branch or tag is at, in the form that huggingface_hub reads."""
    folder = repo_folder_name(repo_id=snapshot.repository, repo_type="model")
    ref = Path(constants.HF_HUB_CACHE) / folder / "refs" / revision
    ref.parent.mkdir(parents=True, exist_ok=True)
    if not ref.exists() or ref.read_text(encoding="utf-8") != snapshot.commit:
        ref.write_text(snapshot.commit, encoding="utf-8")
