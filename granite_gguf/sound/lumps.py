"""Bytes of a file in lumps that belong together, such as frames or pages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

_TAG_AT_ONCE = 1 << 16


class Readable(Protocol):
    """What bytes are read from in order."""

    def read(self, count: int, /) -> bytes:
        """So many bytes; fewer at the end only."""


class Lump(NamedTuple):
    """Bytes that belong together.

    Attributes:
        data: the bytes.
        begins: whether a stream begins with them.
        sounds: whether they belong to a stream; tags between streams do not.
        marked: whether they state the length of their stream.
        samples: of each channel that they hold, where the format tells without decoding.
    """

    data: bytes
    begins: bool = False
    sounds: bool = True
    marked: bool = False
    samples: int = 0


class Window:
    """Bytes to come, of which some may be looked at first.

    Args:
        source: read in order.
        at_once: bytes read together: few, where they arrive slowly.
    """

    def __init__(self, source: Readable, at_once: int) -> None:
        self.at_once = at_once
        self._source = source
        self._held = b""
        self._at = 0

    def peek(self, count: int) -> bytes:
        """The next bytes; fewer at the end only."""
        missing = count - (len(self._held) - self._at)
        if missing > 0:
            more = self._source.read(max(missing, self.at_once))
            self._held = self._held[self._at :] + more
            self._at = 0
        return self._held[self._at : self._at + count]

    def take(self, count: int) -> bytes:
        """The next bytes, which are gone then."""
        data = self.peek(count)
        self._at += len(data)
        return data

    def tag(self, length: int) -> Iterator[Lump]:
        """The next bytes as lumps without sound."""
        while length > 0 and (data := self.take(min(length, _TAG_AT_ONCE))):
            yield Lump(data, sounds=False)
            length -= len(data)


def tag_length(window: Window) -> int:
    """Bytes of the tag that begins here, ID3 or APE; 0 where none does."""
    head = window.peek(10)
    if head[:3] == b"ID3" and len(head) == 10 and max(head[6:10]) < 0x80:
        size = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
        return 10 + size + (10 if head[5] & 0x10 else 0)  # a footer
    if head[:3] == b"TAG":
        return 128
    if head[:8] == b"APETAGEX":
        return 32 + int.from_bytes(window.peek(16)[12:16], "little")
    return 0
