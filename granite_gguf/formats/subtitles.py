"""Subtitles: SubRip, WebVTT, LRC, and tables of them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import replace
from itertools import zip_longest

from granite_gguf.formats.cues import PAUSE, USUAL, Shape, cues
from granite_gguf.transcript import Transcript


def as_srt(_name: str, transcript: Transcript, shape: Shape = USUAL) -> str:
    """SubRip: numbered subtitles, times with a comma."""
    blocks = []
    for number, cue in enumerate(cues(transcript, shape), start=1):
        times = f"{_clock(cue.start, ',')} --> {_clock(cue.end, ',')}"
        lines = "\n".join(line.replace("-->", "->") for line in cue.lines)
        blocks.append(f"{number}\n{times}\n{lines}\n\n")
    return "".join(blocks)


def as_vtt(_name: str, transcript: Transcript, shape: Shape = USUAL) -> str:
    """WebVTT; its three special characters are escaped, and speakers have a tag of their own."""
    blocks = ["WEBVTT\n\n"]
    for cue in cues(transcript, shape, named=False):
        times = f"{_clock(cue.start, '.')} --> {_clock(cue.end, '.')}"
        text = "\n".join(cue.lines)
        for character, escape in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
            text = text.replace(character, escape)
        voice = "" if cue.speaker is None else f"<v {cue.speaker}>"
        blocks.append(f"{times}\n{voice}{text}\n\n")
    return "".join(blocks)


def as_lrc(_name: str, transcript: Transcript, shape: Shape = USUAL) -> str:
    """LRC, as players show lyrics: the time before each line, in hundredths of a second.

    Each is one line, whatever the shape's. The form knows no end of a line; an empty one clears it
    where a pause follows.
    """
    rows = []
    found = cues(transcript, replace(shape, lines=1))
    for cue, following in zip_longest(found, found[1:]):
        rows.append(f"[{_lyrics_clock(cue.start)}]{' '.join(cue.lines)}\n")
        if following is None or following.start - cue.end >= 1000 * PAUSE:
            rows.append(f"[{_lyrics_clock(cue.end)}]\n")
    return "".join(rows)


def as_tsv(_name: str, transcript: Transcript, shape: Shape = USUAL) -> str:
    """A table of the subtitles with a header; times in integer milliseconds."""
    return "".join("\t".join(map(str, row)) + "\n" for row in _table(transcript, shape))


def as_csv(_name: str, transcript: Transcript, shape: Shape = USUAL) -> str:
    """The same table with commas, quoted where RFC 4180 asks for it."""
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(_table(transcript, shape))
    return file.getvalue()


def _table(transcript: Transcript, shape: Shape) -> Iterator[tuple[object, ...]]:
    yield "start", "end", "text"
    for cue in cues(transcript, shape):
        yield cue.start, cue.end, " ".join(cue.lines)


def _clock(milliseconds: int, mark: str) -> str:
    """Hours, minutes, seconds and milliseconds.

    >>> _clock(3_723_004, ",")
    '01:02:03,004'
    """
    seconds, rest = divmod(milliseconds, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{seconds:02d}{mark}{rest:03d}"


def _lyrics_clock(milliseconds: int) -> str:
    """Minutes, seconds and hundredths, rounded down.

    >>> _lyrics_clock(3_723_009)
    '62:03.00'
    """
    seconds, rest = divmod(milliseconds, 1000)
    minutes, seconds = divmod(seconds, 60)
    return f"{minutes:02d}:{seconds:02d}.{rest // 10:02d}"
