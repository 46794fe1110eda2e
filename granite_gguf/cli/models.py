"""``granite-gguf models``: which models there are on the Hub, and which of them are here."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from itertools import groupby

from rich.markup import escape
from rich.table import Table

from granite_gguf.architectures import DIALECTS, HALVES
from granite_gguf.cli.console import print_result, stdout
from granite_gguf.cli.options import AsJson
from granite_gguf.errors import HubError, ModelFileError, printable
from granite_gguf.hub.names import (
    AUTO,
    HubFile,
    HubName,
    Snapshot,
    audio_part,
    choose_file,
    is_gguf,
)
from granite_gguf.hub.published import PUBLISHED, RECOMMENDED_REPOSITORY, Published
from granite_gguf.sizes import megabytes
from granite_gguf.storage.container import open_container
from granite_gguf.storage.keys import Keys

CachedFile = tuple[Snapshot, HubFile]


def models(as_json: AsJson = False) -> None:
    """List the published models that are known, and those in the Hub's cache.

    Names are what `-m` takes. Sizes are those that the publishers state. Asks
    the network nothing.
    """
    from granite_gguf.hub.repository import cached_snapshots  # noqa: PLC0415 - takes long to import

    cached = [
        replace(snapshot, files=[f for f in snapshot.files if _runs(f, snapshot.files)])
        for snapshot in cached_snapshots()
    ]
    if as_json:
        values = {
            "published": [
                {"name": one.name, **asdict(one), "cached": _values(_files_of(one, cached))}
                for one in PUBLISHED
            ],
            "cached": _values((snapshot, file) for snapshot in cached for file in snapshot.files),
        }
        print_result(json.dumps(values, ensure_ascii=False, indent=2))
        return
    _print_published(cached)
    _print_cached(cached)


def _runs(file: HubFile, others: Sequence[HubFile]) -> bool:
    """Whether it names an architecture that is run, a half one with the other beside it.

    What cannot be read is not run.
    """
    if not is_gguf(file.name) or file.path is None:
        return False
    try:
        value = open_container(file.path).metadata.get(Keys.General.ARCHITECTURE)
    except ModelFileError:
        return False
    run = DIALECTS if audio_part(file, others) is None else (*DIALECTS, *HALVES)
    return value is not None and value.value in run


def _files_of(published: Published, cached: Iterable[Snapshot]) -> Iterator[CachedFile]:
    """The files in the cache that a published one's name means, one for each commit."""
    name = HubName(published.repository, published.selector)
    for snapshot in cached:
        if snapshot.repository != published.repository:
            continue
        try:
            chosen = choose_file(name, snapshot.files, str(snapshot))
        except HubError:  # the commit has others
            continue
        # Where others are missing, a longer name is not mistaken for this one.
        if chosen.name.lower().endswith(f"{published.selector.lower()}.gguf"):
            yield snapshot, chosen


def _values(files: Iterable[CachedFile]) -> list[dict[str, object]]:
    return [
        {
            "repository": snapshot.repository,
            "file": file.name,
            "revision": snapshot.commit,
            "refs": sorted(snapshot.refs),
            "path": str(file.path),
            "size": file.size,
        }
        for snapshot, file in files
    ]


def _print_published(cached: list[Snapshot]) -> None:
    for repository, files in groupby(PUBLISHED, key=lambda one: one.repository):
        stdout.print(f"{repository}")
        table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
        for one in files:
            size = "" if one.gigabytes is None else f"{one.gigabytes} GB"
            auto = f" ({AUTO})" if repository == RECOMMENDED_REPOSITORY else ""
            remarks = [f"recommended{auto}"] if one.recommended else []
            remarks += ["cached"] if any(_files_of(one, cached)) else []
            table.add_row(f"  :{one.selector}", size, one.description, ", ".join(remarks))
        stdout.print(table)


def _print_cached(cached: list[Snapshot]) -> None:
    found = [(snapshot, file) for snapshot in cached for file in snapshot.files]
    stdout.print("\nIn the cache:" if found else "\nNone is in the cache.")
    for snapshot, file in found:
        refs = f" ({', '.join(sorted(snapshot.refs))})" if snapshot.refs else ""
        stdout.print(escape(printable(f"{snapshot.repository}:{file.name}")))
        stdout.print(escape(f"  revision {snapshot.commit[:12]}{refs}, {megabytes(file.size)}"))
        stdout.print(escape(printable(f"  {file.path}")))
