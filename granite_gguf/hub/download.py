"""Downloads one file into the Hub's cache: resumed across runs, verified by its hash.

huggingface_hub 1 kept what a broken download left and went on from there, 2 throws it away. The
files of this model are gigabytes, so the transfer itself is here; locks, tokens, sessions and the
cache's layout are huggingface_hub's.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import constants, get_session, hf_hub_download, hf_hub_url, hf_raise_for_status
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import WeakFileLock, build_hf_headers  # type: ignore[attr-defined]
from huggingface_hub.utils.sha import git_hash, sha_fileobj

from granite_gguf.errors import HubError
from granite_gguf.files import Progress
from granite_gguf.hub.faults import FAULTS, HTTP_ERROR, explain, is_passing
from granite_gguf.hub.names import HubFile, Snapshot
from granite_gguf.sizes import megabytes

_RETRIES = 3  # in a row without a byte received
_PAUSE = 0.5  # seconds before the first of them, twice as long before each further one
_SHA256_LENGTH = 64


def folder_of(repository: str, within: str = "") -> Path:
    """Where the cache keeps a repository, or what belongs to it in a folder of the cache."""
    name = repo_folder_name(repo_id=repository, repo_type="model")
    return Path(constants.HF_HUB_CACHE, within, name)


def download(
    snapshot: Snapshot, file: HubFile, note: Callable[[str], None], progress: Progress
) -> Path:
    """Fetch a file of a repository into the cache, going on from what an earlier run left.

    Raises:
        HubError: it cannot be fetched or written, or is not what the Hub says it is.
    """
    repository, commit = snapshot.repository, snapshot.commit
    source, folder = f"{file.name} of {snapshot}", folder_of(repository) / "blobs"
    transfer = _Transfer(
        file, source, hf_hub_url(repository, file.name, revision=commit), folder / file.digest
    )
    lock = folder_of(repository, ".locks") / f"{file.digest}.lock"
    if not transfer.blob.exists():
        arrived = transfer.received
        note(
            f"downloading {file.name} ({megabytes(file.size)}) from {snapshot}"
            + (f", {megabytes(arrived)} of it are here already" if arrived else "")
        )
    try:
        for made in (folder, lock.parent):
            made.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(lock):
            if not transfer.blob.exists():  # another process may have been faster
                transfer.run(progress)
    except HTTP_ERROR as error:
        raise HubError(f"{source}: {explain(error)}") from error
    except OSError as error:
        raise HubError(
            f"{source}: cannot be stored in {folder}: {error.strerror or error}"
        ) from error
    try:
        # Finds the blob, and gives it its name in the snapshot.
        return Path(hf_hub_download(repository, file.name, revision=commit))
    except FAULTS as error:
        raise HubError(f"{source}: {explain(error, commit)}") from error


@dataclass(frozen=True)
class _Transfer:
    """A file, what messages call it, where it is, and where it goes."""

    file: HubFile
    source: str
    url: str
    blob: Path

    @property
    def partial(self) -> Path:
        """What has arrived of it."""
        return self.blob.with_name(f"{self.blob.name}.incomplete")

    @property
    def received(self) -> int:
        """How many of its bytes have arrived."""
        return self.partial.stat().st_size if self.partial.exists() else 0

    def run(self, progress: Progress) -> None:
        """Fetch what is missing. What breaks off is resumed as long as bytes arrive."""
        size, failures = self.file.size, 0
        if self.received > size:
            self.partial.unlink()
        self._check_space()
        while (before := self.received) < size:
            try:
                self._receive(before, progress)
                reason = "the Hub sent less than the file"
            except HTTP_ERROR as error:
                if not is_passing(error):
                    raise
                reason = explain(error)
            failures = 0 if self.received > before else failures + 1
            if failures > _RETRIES:
                raise HubError(
                    f"{self.source}: the download broke off after {megabytes(before)} of "
                    f"{megabytes(size)}: {reason}; run the same again to resume it"
                )
            if failures:
                time.sleep(_PAUSE * 2 ** (failures - 1))
        self._verify()
        self.partial.replace(self.blob)

    def _check_space(self) -> None:
        needed, folder = self.file.size - self.received, self.blob.parent
        free = shutil.disk_usage(folder).free
        if needed > free:
            raise HubError(
                f"{self.source}: needs {megabytes(needed)}, and {folder} has {megabytes(free)} "
                "free; make room, or set HF_HOME to a folder on another disk"
            )

    def _receive(self, done: int, progress: Progress) -> None:
        # Compressed, it would be neither resumable nor of the size that is expected.
        headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
        if done:
            headers["Range"] = f"bytes={done}-"
        timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
        with get_session().stream("GET", self.url, headers=headers, timeout=timeout) as response:
            hf_raise_for_status(response)
            if response.status_code != 206:  # the whole file, whatever was asked for
                done = 0
            with self.partial.open("ab" if done else "wb") as file:
                for part in response.iter_bytes():
                    file.write(part)
                    done += len(part)
                    progress(self.file.name, done, self.file.size)

    def _verify(self) -> None:
        size, expected = self.received, self.file.digest.lower()
        with self.partial.open("rb") as file:
            # The Hub names small files as git does.
            large = len(expected) == _SHA256_LENGTH
            digest = sha_fileobj(file).hex() if large else git_hash(file.read())
        if digest != expected:
            self.partial.unlink()
            raise HubError(
                f"{self.source}: what arrived is damaged and has been deleted: {size} bytes with "
                f"the hash {digest[:12]}…, the Hub states {self.file.size} with {expected[:12]}…; "
                "run the same again"
            )
