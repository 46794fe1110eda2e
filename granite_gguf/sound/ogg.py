"""Pages of Ogg, as far as streams must be told apart.

Source: RFC 3533; for FLAC in Ogg, https://xiph.org/flac/ogg_mapping.html.
"""

from __future__ import annotations

from collections.abc import Iterator

from granite_gguf.sound.lumps import Lump, Readable, Window

MARK = b"OggS"
_HEADER = 27
_BEGINS = 2  # the flag of a page that begins a stream
_FLAC = b"\x7fFLAC"
_BEFORE_FLAC = 9  # bytes of the first page's contents before those of a FLAC file
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


def holds_flac(head: bytes) -> bool:
    """Whether the page that begins here is the first of FLAC in Ogg."""
    return head.startswith(MARK) and head[_contents(head) :].startswith(_FLAC)


class FlacInside:
    """The FLAC file that pages of Ogg hold, whose contents follow one another."""

    def __init__(self, pages: Readable, at_once: int) -> None:
        self._lumps = lumps(Window(pages, at_once))
        self._serial: bytes | None = None
        self._held = b""

    def read(self, count: int, /) -> bytes:
        """So many bytes; fewer at the end only."""
        parts, missing = [], count
        while missing > 0:
            if not self._held:
                page = next(self._lumps, None)
                if page is None:
                    break
                self._held = self._contents(page.data)
            parts.append(self._held[:missing])
            self._held = self._held[missing:]
            missing -= len(parts[-1])
        return b"".join(parts)

    def _contents(self, page: bytes) -> bytes:
        if not page.startswith(MARK) or len(page) < _HEADER:
            return b""
        inside, serial = page[_contents(page) :], page[14:18]
        if self._serial is None and inside.startswith(_FLAC):
            self._serial = serial
            return inside[_BEFORE_FLAC:]
        return inside if serial == self._serial else b""


def _contents(page: bytes) -> int:
    """Where the contents of a page begin."""
    return _HEADER + (page[26] if len(page) >= _HEADER else 0)
