"""What a repository holds: as the Hub says, or where that cannot be asked, as its cache has it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from huggingface_hub import HfApi, constants, scan_cache_dir, try_to_load_from_cache
from huggingface_hub.errors import (
    CacheNotFound,
    FileMetadataError,
    HFValidationError,
    OfflineModeIsEnabled,
    RevisionNotFoundError,
)

from granite_gguf.errors import HubError
from granite_gguf.files import Progress
from granite_gguf.hub.download import download, folder_of
from granite_gguf.hub.faults import FAULTS, HTTP_ERROR, explain, is_passing
from granite_gguf.hub.names import HubFile, HubName, Snapshot, audio_part, choose_file

_COMMIT = re.compile(r"[0-9a-f]{40}")
_DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


def cached_snapshots(repository: str | None = None) -> Iterator[Snapshot]:
    """What the cache holds of all repositories, or of one, in order; asks nobody."""
    try:
        repositories = scan_cache_dir().repos
    except CacheNotFound:
        return
    for found in sorted(repositories, key=lambda one: one.repo_id):
        if found.repo_type != "model" or repository not in (None, found.repo_id):
            continue
        for revision in sorted(found.revisions, key=lambda one: one.commit_hash):
            files = [
                HubFile(
                    one.file_path.relative_to(revision.snapshot_path).as_posix(),
                    one.size_on_disk,
                    path=one.file_path,
                )
                for one in sorted(revision.files, key=lambda one: str(one.file_path))
            ]
            yield Snapshot(found.repo_id, revision.commit_hash, files, revision.refs)


def fetch(name: HubName, note: Callable[[str], None], progress: Progress) -> Path:
    """The file that a name means, from the cache or downloaded into it.

    Of a pair for llama.cpp the other file comes, too, so that it lies beside.

    Raises:
        HubError: there is none, or it cannot be had.
    """
    revision = name.revision or constants.DEFAULT_REVISION
    if name.file and _COMMIT.fullmatch(revision):  # nothing that the Hub could tell about it
        snapshot = Snapshot(name.repository, revision)
        path = _cached(snapshot, name.file)
        if path is not None:
            note(f"using {name.file} of {snapshot} from the cache")
            return path
    why = ""
    try:
        snapshot = _ask(name, revision)
        file = choose_file(name, snapshot.files, str(snapshot))
    except (RevisionNotFoundError, HFValidationError) as error:
        raise HubError(f"{name}: {explain(error, revision)}{_hint(name)}") from error
    except FAULTS as error:  # no network, or a repository that is gone: what is here still runs
        snapshot, file = _from_cache(name, revision, error)
        why = "" if isinstance(error, OfflineModeIsEnabled) else f": {explain(error, revision)}"
    path = _had(snapshot, file, note, progress, why)
    beside = audio_part(file, snapshot.files)
    if beside is not None:
        _had(snapshot, beside, note, progress, why)
    if revision != snapshot.commit:
        # Only lets the revision be found again offline, which a cache that may not be written,
        # shared by many users, does without.
        with suppress(OSError):
            _remember(snapshot, revision)
    return path


def _had(
    snapshot: Snapshot, file: HubFile, note: Callable[[str], None], progress: Progress, why: str
) -> Path:
    """A file in the cache, where it is downloaded to unless it is there."""
    path = _cached(snapshot, file.name)
    if path is None:
        return download(snapshot, file, note, progress)
    note(f"using {file.name} of {snapshot} from the cache{why}")
    return path


def _cached(snapshot: Snapshot, file: str) -> Path | None:
    found = try_to_load_from_cache(snapshot.repository, file, revision=snapshot.commit)
    return Path(found) if isinstance(found, str) else None


def _hint(name: HubName) -> str:
    return "; there is no local file of this name either" if str(name) == name.repository else ""


def _ask(name: HubName, revision: str) -> Snapshot:
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
    return Snapshot(name.repository, info.sha, files)


def _from_cache(name: HubName, revision: str, error: BaseException) -> tuple[Snapshot, HubFile]:
    """What the cache has in place of what the Hub did not tell."""
    reason = explain(error, revision)
    for snapshot in cached_snapshots(name.repository):
        if snapshot.commit == revision or revision in snapshot.refs:
            try:
                return snapshot, choose_file(name, snapshot.files, f"{snapshot} in the cache")
            except HubError as missing:
                raise HubError(f"{name}: {reason}. {missing}") from error
    asked = not isinstance(error, OfflineModeIsEnabled)
    where = ", and it is not in the cache" if asked and is_passing(error) else ""
    raise HubError(f"{name}: {reason}{where}{_hint(name)}") from error


def _remember(snapshot: Snapshot, revision: str) -> None:
    """Note which commit a branch or tag is at, in the form that huggingface_hub reads."""
    ref = folder_of(snapshot.repository) / "refs" / revision
    ref.parent.mkdir(parents=True, exist_ok=True)
    if not ref.exists() or ref.read_text(encoding="utf-8") != snapshot.commit:
        ref.write_text(snapshot.commit, encoding="utf-8")
