"""Downloads one file into the Hub's cache: resumed across runs, verified by its hash.

huggingface_hub 1 kept what a broken download left and went on from there, 2 throws it away. The
files of this model are gigabytes, so the transfer itself is here; locks, tokens, sessions and the
cache's layout are huggingface_hub's.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import constants, get_session, hf_raise_for_status
from huggingface_hub.utils import WeakFileLock, build_hf_headers  # type: ignore[attr-defined]

from granite_gguf.errors import HubError
from granite_gguf.files import Progress
from granite_gguf.hub.faults import HTTP_ERROR, explain, is_passing
from granite_gguf.hub.names import HubFile
from granite_gguf.sizes import megabytes

_RETRIES = 3  # in a row without a byte received
_PAUSE = 0.5  # seconds before the first of them, twice as long before each further one
_PART = 1 << 20  # bytes hashed at once
_SHA256_LENGTH = 64


@dataclass(frozen=True)
class Transfer:
    """A file to download.

    Attributes:
        file: its name, size and hash.
        source: what it is called in messages.
        url: where it is.
        blob: where it goes.
        lock: the file that keeps others from downloading it, too.
    """

    file: HubFile
    source: str
    url: str
    blob: Path
    lock: Path

    @property
    def partial(self) -> Path:
        """What has arrived of it."""
        return self.blob.with_name(f"{self.blob.name}.incomplete")

    def received(self) -> int:
        """How many of its bytes have arrived."""
        return self.partial.stat().st_size if self.partial.exists() else 0


def download(transfer: Transfer, progress: Progress) -> None:
    """Fetch a file, going on from what an earlier run left.

    Raises:
        HubError: it cannot be fetched or written, or is not what the Hub says it is.
    """
    try:
        transfer.blob.parent.mkdir(parents=True, exist_ok=True)
        transfer.lock.parent.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(transfer.lock):
            if transfer.blob.exists():  # another process was faster
                return
            if transfer.received() > transfer.file.size:
                transfer.partial.unlink()
            _check_space(transfer)
            _receive(transfer, progress)
            _verify(transfer)
            transfer.partial.replace(transfer.blob)
    except HTTP_ERROR as error:
        raise HubError(f"{transfer.source}: {explain(error)}") from error
    except OSError as error:
        raise HubError(
            f"{transfer.source}: cannot be stored in {transfer.blob.parent}: "
            f"{error.strerror or error}"
        ) from error


def _check_space(transfer: Transfer) -> None:
    folder = transfer.blob.parent
    needed, free = transfer.file.size - transfer.received(), shutil.disk_usage(folder).free
    if needed > free:
        raise HubError(
            f"{transfer.source}: needs {megabytes(needed)}, and {folder} has {megabytes(free)} "
            "free; make room, or set HF_HOME to a folder on another disk"
        )


def _receive(transfer: Transfer, progress: Progress) -> None:
    """Fetch what is missing. What breaks off is resumed as long as bytes arrive."""
    failures = 0
    while (before := transfer.received()) < transfer.file.size:
        try:
            _receive_once(transfer, before, progress)
            reason = "the Hub sent less than the file"
        except HTTP_ERROR as error:
            if not is_passing(error):
                raise
            reason = explain(error)
        failures = 0 if transfer.received() > before else failures + 1
        if failures > _RETRIES:
            raise HubError(
                f"{transfer.source}: the download broke off after {megabytes(before)} of "
                f"{megabytes(transfer.file.size)}: {reason}; run the same again to resume it"
            )
        if failures:
            time.sleep(_PAUSE * 2 ** (failures - 1))


def _receive_once(transfer: Transfer, done: int, progress: Progress) -> None:
    # Compressed, it would be neither resumable nor of the size that is expected.
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
    if done:
        headers["Range"] = f"bytes={done}-"
    timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
    with get_session().stream("GET", transfer.url, headers=headers, timeout=timeout) as response:
        hf_raise_for_status(response)
        if response.status_code != 206:  # the whole file, whatever was asked for
            done = 0
        with transfer.partial.open("ab" if done else "wb") as file:
            for part in response.iter_bytes():
                file.write(part)
                done += len(part)
                progress(transfer.file.name, done, transfer.file.size)


def _verify(transfer: Transfer) -> None:
    size, expected = transfer.received(), transfer.file.digest.lower()
    # The Hub names small files as git does.
    header = b"" if len(expected) == _SHA256_LENGTH else f"blob {size}\0".encode()
    digest = hashlib.sha1(header, usedforsecurity=False) if header else hashlib.sha256()
    with transfer.partial.open("rb") as file:
        while part := file.read(_PART):
            digest.update(part)
    if digest.hexdigest() != expected:
        transfer.partial.unlink()
        raise HubError(
            f"{transfer.source}: what arrived is damaged and has been deleted: {size} bytes with "
            f"the hash {digest.hexdigest()[:12]}…, the Hub states {transfer.file.size} with "
            f"{expected[:12]}…; run the same again"
        )
