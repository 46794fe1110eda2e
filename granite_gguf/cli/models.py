"""``granite-gguf models``: which models there are on the Hub, and which of them are here."""

from __future__ import annotations

import json
from dataclasses import asdict
from itertools import groupby
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from granite_gguf.architectures import DIALECTS
from granite_gguf.cli.console import print_result, stdout
from granite_gguf.cli.options import AsJson
from granite_gguf.errors import HubError, ModelFileError, printable
from granite_gguf.hub.names import AUTO, HubName, choose_file
from granite_gguf.hub.published import PUBLISHED, Published
from granite_gguf.sizes import megabytes
from granite_gguf.storage.container import open_container
from granite_gguf.storage.keys import Keys

if TYPE_CHECKING:
    from granite_gguf.hub.cached import CachedFile


def models(
    as_json: AsJson = False,
) -> None:
    """List the published models that are known, and those in the Hub's cache.

    Names are what `-m` takes. Sizes are those that the publishers state. Asks
    the network nothing.
    """
    from granite_gguf.hub.cached import cached_files  # noqa: PLC0415 - takes long to import

    cached = [file for file in cached_files() if _architecture(file) in DIALECTS]
    if as_json:
        values = {
            "published": [_published(one, cached) for one in PUBLISHED],
            "cached": [_cached(file) for file in cached],
        }
        print_result(json.dumps(values, ensure_ascii=False, indent=2))
        return
    _print_published(cached)
    _print_cached(cached)


def _architecture(file: CachedFile) -> str | None:
    """What a file holds, None where it is not to be read: then it cannot be run either."""
    try:
        value = open_container(file.path).metadata.get(Keys.General.ARCHITECTURE)
    except ModelFileError:
        return None
    return None if value is None else str(value.value)


def _files_of(published: Published, cached: list[CachedFile]) -> list[CachedFile]:
    """The files in the cache that a published one's name means, one for each commit."""
    found = []
    name = HubName(published.repository, published.selector)
    mine = [file for file in cached if file.repository == published.repository]
    for commit in {file.commit for file in mine}:
        there = [file for file in mine if file.commit == commit]
        try:
            chosen = choose_file(name, [file.file for file in there], commit)
        except HubError:  # the commit has others
            continue
        # Where others are missing, a longer name is not mistaken for this one.
        if chosen.name.lower().endswith(f"{published.selector.lower()}.gguf"):
            found += [file for file in there if file.file == chosen]
    return found


def _published(published: Published, cached: list[CachedFile]) -> dict[str, object]:
    return {
        "name": published.name,
        **asdict(published),
        "cached": [_cached(file) for file in _files_of(published, cached)],
    }


def _cached(file: CachedFile) -> dict[str, object]:
    return {
        "repository": file.repository,
        "file": file.file.name,
        "revision": file.commit,
        "refs": sorted(file.refs),
        "path": str(file.path),
        "size": file.file.size,
    }


def _print_published(cached: list[CachedFile]) -> None:
    for repository, files in groupby(PUBLISHED, key=lambda one: one.repository):
        stdout.print(f"{repository}")
        table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
        for one in files:
            size = "" if one.gigabytes is None else f"{one.gigabytes} GB"
            remarks = []
            if one.recommended:
                remarks.append(f"recommended ({AUTO})")
            if _files_of(one, cached):
                remarks.append("cached")
            table.add_row(f"  :{one.selector}", size, one.description, ", ".join(remarks))
        stdout.print(table)


def _print_cached(cached: list[CachedFile]) -> None:
    stdout.print("\nIn the cache:" if cached else "\nNone is in the cache.")
    for file in cached:
        refs = f" ({', '.join(sorted(file.refs))})" if file.refs else ""
        stdout.print(escape(printable(f"{file.repository}:{file.file.name}")))
        stdout.print(escape(f"  revision {file.commit[:12]}{refs}, {megabytes(file.file.size)}"))
        stdout.print(escape(printable(f"  {file.path}")))
