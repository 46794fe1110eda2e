"""Streams that follow one another in one file, as joining files end to end makes them.

    bytes in order → lumps: frames of MP3, pages of Ogg, ... → parts, each a stream of its own

Decoders stop where the first stream ends, or take what follows for damage. Radio, podcasts and
programs that speak join MP3 and Ogg files on purpose: both formats are made for it.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import BinaryIO

from granite_gguf.sound import mp3, ogg
from granite_gguf.sound.lumps import Lump, Readable, Window, tag_length

_FLAC_MARK = b"fLaC\x00\x00\x00\x22"  # and the header of the block that comes first, of 34 bytes
_AT_ONCE = 1 << 18  # bytes, from a file
_AT_ONCE_LIVE = 1 << 8  # from a pipe, whose sender may pause
_LUMP = 1 << 16
_TAGS = 1 << 20  # bytes at the start of a file that may be tags with pictures
UNKNOWN_SIZE = 0x7FFF0000  # of a WAV file, from here on, says that it was not known


class Kind(Enum):
    """What a recording's bytes are, where that makes a difference."""

    MP3 = "MP3"
    OGG = "Ogg"
    FLAC = "FLAC"
    WAV = "WAV"
    AU = "AU"
    OTHER = "other"


@dataclass(frozen=True)
class Part:
    """One stream within a file.

    Attributes:
        start: its first byte.
        end: the byte behind its last.
        samples: of each channel, where only counting its frames tells.
    """

    start: int
    end: int
    samples: int | None = None


def kind_of(head: bytes) -> Kind:
    """What a recording is, by its beginning, which may be a tag."""
    window = Window(io.BytesIO(head), len(head))
    while tag := tag_length(window):
        if not window.take(tag):
            break
    begins = window.peek(12)
    if begins[:4] == b"fLaC":
        return Kind.FLAC
    if begins[:4] == ogg.MARK:
        return Kind.OGG
    if begins[:4] in (b"RIFF", b"RIFX") and begins[8:] == b"WAVE":
        return Kind.WAV
    if begins[:4] == b".snd":
        return Kind.AU
    return Kind.MP3 if mp3.is_mp3(window) else Kind.OTHER


def parts_of_file(file: BinaryIO, start: int, end: int) -> tuple[Kind, list[Part]]:
    """The streams in a file.

    Args:
        file: can seek; where it stands afterwards is not said.
        start: its first byte.
        end: the byte behind its last.
    """
    file.seek(start)
    kind = kind_of(file.read(min(_TAGS, end - start)))
    if kind is Kind.WAV:
        return kind, _wav_parts(file, start, end)
    if kind not in _LUMPS or (kind is Kind.MP3 and _is_one_mp3(file, start, end)):
        return kind, [Part(start, end)]
    file.seek(start)
    found: list[Part] = []
    at, samples, marked = start, 0, False
    first, last = start, start
    for lump in _LUMPS[kind](Window(file, _AT_ONCE)):
        if lump.sounds:
            if lump.begins and last > first:
                found.append(Part(first, last, None if marked else samples or None))
                first, samples, marked = at, 0, False
            elif last == first:
                first = at
            last = at + len(lump.data)
            samples += lump.samples
            marked |= lump.marked
        at += len(lump.data)
    return kind, [*found, Part(first, last, None if marked else samples or None)]


def parts_of_pipe(kind: Kind, source: Readable) -> Iterator[Readable]:
    """The streams in what comes in order: each must be read before the next is asked for."""
    if kind not in _LUMPS:
        yield source
        return
    lumps = _Lumps(_LUMPS[kind](Window(source, _AT_ONCE_LIVE)))
    while lumps.next_part():
        yield lumps


class _Lumps:
    """Lumps as bytes, up to where the next stream begins; none is asked for before it is needed."""

    def __init__(self, lumps: Iterator[Lump]) -> None:
        self._lumps = (lump for lump in lumps if lump.sounds)
        self._held = b""
        self._next: Lump | None = None

    def next_part(self) -> bool:
        """Go on with the next stream, if there is one."""
        while self.read(_LUMP):
            pass
        if self._following() is None:
            return False
        self._take()
        return True

    def read(self, count: int, /) -> bytes:
        """So many bytes; fewer at the end of a stream only."""
        while len(self._held) < count:
            following = self._following()
            if following is None or following.begins:
                break
            self._take()
        data, self._held = self._held[:count], self._held[count:]
        return data

    def _following(self) -> Lump | None:
        if self._next is None:
            self._next = next(self._lumps, None)
        return self._next

    def _take(self) -> None:
        if self._next is not None:
            self._held += self._next.data
            self._next = None


def _is_one_mp3(file: BinaryIO, start: int, end: int) -> bool:
    """Whether the first stream of a file states to reach up to its end."""
    file.seek(start)
    window = Window(file, _AT_ONCE)
    at = start
    while tag := tag_length(window):
        taken = len(window.take(tag))
        at += taken
        if taken < tag:
            return True
    frame = mp3.parse_header(window.peek(4))
    stated = mp3.stated_bytes(window.peek(frame.size)) if frame is not None else None
    return stated is not None and at + stated == end


def _flac_lumps(window: Window) -> Iterator[Lump]:
    if tag := tag_length(window):
        yield from window.tag(tag)
    while data := window.peek(window.at_once):
        place = data.find(_FLAC_MARK, 1)
        kept = len(_FLAC_MARK) - 1  # a mark may begin within the last bytes
        size = place if place > 0 else max(len(data) - kept, 1)
        yield Lump(window.take(size), begins=data.startswith(_FLAC_MARK))


def _wav_lumps(window: Window) -> Iterator[Lump]:
    begins = True
    while head := window.peek(12):
        left = _wav_size(head)
        while left > 0 and (data := window.take(min(left, window.at_once))):
            yield Lump(sized(data) if begins else data, begins=begins)
            begins = False
            left -= len(data)
        if window.peek(13)[1:5] == b"RIFF":  # what fills up an odd number of bytes
            yield Lump(window.take(1), sounds=False)
        begins = _is_wav(window.peek(12))


def _wav_parts(file: BinaryIO, start: int, end: int) -> list[Part]:
    """The WAV files in a file, without reading all of it."""
    found: list[Part] = []
    while True:
        file.seek(start)
        size = _wav_size(file.read(12))
        behind = start + size
        file.seek(min(behind, end))
        head = file.read(13)
        behind += head[1:5] == b"RIFF"
        if not (_is_wav(head) or _is_wav(head[1:])) or behind >= end:
            return [*found, Part(start, end)]
        found.append(Part(start, behind))
        start = behind


def _is_wav(head: bytes) -> bool:
    return head[:4] == b"RIFF" and head[8:12] == b"WAVE"


def _wav_size(head: bytes) -> int:
    """Bytes that a WAV file states to have, or more than there can be where it does not know."""
    size = 8 + int.from_bytes(head[4:8], "little")
    return size if _is_wav(head) and 12 < size < UNKNOWN_SIZE else 1 << 62


def sized(head: bytes) -> bytes:
    """A WAV file's beginning, with a size of its samples that says "unknown" in place of 0.

    A program that writes to a pipe and cannot go back leaves 0 in both sizes. Where the size of the
    whole file is stated, there are no samples indeed.
    """
    at = 12
    while _is_wav(head) and at + 8 <= len(head):
        size = int.from_bytes(head[at + 4 : at + 8], "little")
        if head[at : at + 4] == b"data":
            whole = int.from_bytes(head[4:8], "little")
            unknown = size == 0 and (whole <= at or whole >= UNKNOWN_SIZE)
            return head[: at + 4] + b"\xff\xff\xff\xff" + head[at + 8 :] if unknown else head
        at += 8 + size + size % 2
    return head


_LUMPS: dict[Kind, Callable[[Window], Iterator[Lump]]] = {
    Kind.MP3: mp3.lumps,
    Kind.OGG: ogg.lumps,
    Kind.FLAC: _flac_lumps,
    Kind.WAV: _wav_lumps,
}
