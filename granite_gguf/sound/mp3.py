"""Frames of MPEG audio, as far as they must be told apart: no decoding.

Source: ISO/IEC 11172-3 and 13818-3 for the header of a frame; the tags Xing, Info and VBRI, which
encoders put into a first frame without sound; id3.org for ID3.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from granite_gguf.sound.lumps import Lump, Window, tag_length

_MARKS = (b"Xing", b"Info", b"VBRI")
_MARK_WITHIN = 4 + 2 + 32 + 4  # header, checksum, side information, the mark itself
_HEADER = 4
_JUNK_AT_ONCE = 4096

# kbit/s by version (1; 2 and 2.5 together) and layer, index 1 to 14
_BITRATES = {
    (1, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (1, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (2, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}


@dataclass(frozen=True)
class Frame:
    """What the header of a frame says.

    Attributes:
        kind: what stays the same within a stream: version, layer, rate in Hz, whether mono.
        size: bytes with the header.
        samples: of each channel.
    """

    kind: tuple[int, int, int, bool]
    size: int
    samples: int


def parse_header(head: bytes) -> Frame | None:
    """The frame that begins here; None where none does, or one of free format, without a size.

    >>> parse_header(bytes.fromhex("fffb9064"))
    Frame(kind=(3, 3, 44100, False), size=417, samples=1152)
    """
    if len(head) < _HEADER or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    version, layer = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3)
    bitrate, rate = head[2] >> 4, head[2] >> 2 & 3
    if version == 1 or layer == 4 or not 1 <= bitrate <= 14 or rate == 3:
        return None
    bits = 1000 * _BITRATES[1 if version == 3 else 2, layer][bitrate - 1]
    hertz = _RATES[version][rate]
    padding = head[2] >> 1 & 1
    if layer == 1:
        samples, size = 384, (12 * bits // hertz + padding) * 4
    else:
        samples = 576 if layer == 3 and version != 3 else 1152
        size = samples // 8 * bits // hertz + padding
    return Frame((version, layer, hertz, head[3] >> 6 == 3), size, samples)


def is_mp3(window: Window) -> bool:
    """Whether frames begin here: two, one behind the other, or one that fills all there is."""
    frame = parse_header(window.peek(_HEADER))
    return frame is not None and _is_followed(window, frame)


def lumps(window: Window) -> Iterator[Lump]:
    """The frames, and what lies between them.

    A stream begins with a mark of its length, or where the kind of the frames changes.
    """
    kind = None
    in_step = False
    while head := window.peek(10):
        if tag := tag_length(window):
            yield from window.tag(tag)
            continue
        frame = parse_header(head)
        if frame is None or not ((in_step and frame.kind == kind) or _is_followed(window, frame)):
            in_step = False
            yield Lump(_junk(window))
            continue
        if in_step and (cut := _next_stream(window, frame)):
            yield Lump(window.take(cut))
            in_step = False
            continue
        data = window.take(frame.size)
        marked = _is_marked(data)
        whole = len(data) == frame.size
        samples = frame.samples if whole and not marked else 0
        yield Lump(data, begins=marked or frame.kind != kind, marked=marked, samples=samples)
        kind, in_step = frame.kind, True


def stated_bytes(frame: bytes) -> int | None:
    """Bytes of the stream whose first frame this is, with it, where its mark says so."""
    for mark in _MARKS[:2]:
        at = frame.find(mark, _HEADER, _MARK_WITHIN)
        if at >= 0 and len(frame) >= at + 16:
            flags = int.from_bytes(frame[at + 4 : at + 8], "big")
            place = at + 8 + 4 * (flags & 1)
            return int.from_bytes(frame[place : place + 4], "big") if flags & 2 else None
    return None


def _is_followed(window: Window, frame: Frame) -> bool:
    data = window.peek(frame.size + _HEADER)
    if len(data) <= frame.size:  # the last one, perhaps cut off
        return True
    following = parse_header(data[frame.size :])
    if following is not None:
        return following.kind == frame.kind
    return data[frame.size : frame.size + 3] in (b"ID3", b"TAG", b"APE")


def _is_marked(data: bytes) -> bool:
    """Whether a frame that begins here states the length of its stream."""
    return any(mark in data[_HEADER:_MARK_WITHIN] for mark in _MARKS)


def _next_stream(window: Window, frame: Frame) -> int:
    """Where in a frame, which was cut off, the marked frame of another stream begins; or 0."""
    if _is_followed(window, frame):
        return 0
    data = window.peek(frame.size + _MARK_WITHIN)
    places = (
        at
        for at in range(1, frame.size)
        if parse_header(data[at : at + _HEADER]) is not None and _is_marked(data[at:])
    )
    return max(places, default=0)


def _junk(window: Window) -> bytes:
    """Everything up to where a frame may begin."""
    data = window.peek(_JUNK_AT_ONCE)
    places = [
        p for p in (data.find(b"\xff", 1), data.find(b"ID3", 1), data.find(b"TAG", 1)) if p > 0
    ]
    return window.take(min(places, default=len(data)))
