"""Models from the Hugging Face Hub, in its own cache.

    name → names.parse_name → repository (which files, which commit) → names.choose_file
         → download (resumed, verified) → a path in the cache

Only ``repository``, ``download`` and ``faults`` import huggingface_hub, which takes longer than the
rest of the command line; nothing imports them before they are needed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from granite_gguf.demo import demo_file
from granite_gguf.files import Progress, silent
from granite_gguf.hub.names import HubName, parse_name

__all__ = ["HubName", "find_model", "parse_name"]

_log = logging.getLogger(__name__)


def find_model(
    name: str, *, note: Callable[[str], None] = _log.info, progress: Progress = silent
) -> Path:
    """The file of a model: a path as it is, or a file of the Hub, downloaded where needed.

    Args:
        name: a path; or ``owner/name`` of a repository, ``owner/name:Q4_K`` for its file of that
            type, ``owner/name:file.gguf``, each with an optional ``@revision``; or ``auto`` for the
            recommended published file. What exists as a path is one. ``demo:base`` and ``demo:nar``
            are the models that ship with the package.
        note: is told what is used, and the size of a download before it starts.
        progress: is told of the file's name, the bytes on disk and its size.

    Returns:
        The path, in the Hub's cache where it came from there. A path that does not exist is
        returned as well: opening it tells what is wrong.

    Raises:
        InputError: there is no such model in the package.
        HubError: there is no such repository, revision or file, access is refused, the download
            broke off or is damaged, or the disk is full.
    """
    found = parse_name(name)
    if found is None:
        path = Path(name)
        return path if path.exists() else demo_file(name) or path
    from granite_gguf.hub.repository import fetch  # noqa: PLC0415 - takes long to import

    return fetch(found, note, progress)
