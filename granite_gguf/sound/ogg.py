"""Pages of Ogg, as far as streams must be told apart.

Source: RFC 3533.
"""

from __future__ import annotations

from collections.abc import Iterator

from granite_gguf.sound.lumps import Lump, Window

MARK = b"OggS"
_HEADER = 27
_BEGINS = 2  # the flag of a page that begins a stream
_JUNK_AT_ONCE = 4096


def lumps(window: Window) -> Iterator[Lump]:
    """The pages; a stream, or several side by side, begin where none is open."""
    beginning = False
    while head := window.peek(_HEADER):
        if not head.startswith(MARK) or len(head) < _HEADER:
            data = window.peek(_JUNK_AT_ONCE)
            place = data.find(MARK, 1)
            yield Lump(window.take(place if place > 0 else max(1, len(data) - 3)))
            continue
        first = bool(head[5] & _BEGINS)
        yield Lump(window.take(_page_size(window, head)), begins=first and not beginning)
        beginning = first


def _page_size(window: Window, head: bytes) -> int:
    table = window.peek(_HEADER + head[26])[_HEADER:]
    return _HEADER + len(table) + sum(table)
