"""What the Hub's cache holds; asks nobody."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import scan_cache_dir
from huggingface_hub.errors import CacheNotFound

from granite_gguf.hub.names import HubFile


@dataclass(frozen=True)
class CachedFile:
    """A GGUF file in the cache.

    Attributes:
        repository: ``owner/name``.
        commit: the revision it is of.
        refs: the branches and tags that were at this commit when they were last asked for.
        path: where it is.
        file: its name in the repository, and its size.
    """

    repository: str
    commit: str
    refs: frozenset[str]
    path: Path
    file: HubFile


def cached_files(repository: str | None = None) -> Iterator[CachedFile]:
    """The GGUF files in the cache, or those of one repository, by repository and name."""
    try:
        repositories = scan_cache_dir().repos
    except CacheNotFound:
        return
    for found in sorted(repositories, key=lambda one: one.repo_id):
        if found.repo_type != "model" or repository not in (None, found.repo_id):
            continue
        for revision in sorted(found.revisions, key=lambda one: one.commit_hash):
            for file in sorted(revision.files, key=lambda one: str(one.file_path)):
                name = file.file_path.relative_to(revision.snapshot_path).as_posix()
                if name.lower().endswith(".gguf"):
                    yield CachedFile(
                        found.repo_id,
                        revision.commit_hash,
                        revision.refs,
                        file.file_path,
                        HubFile(name, file.size_on_disk),
                    )
