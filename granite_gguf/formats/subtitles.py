"""Subtitles: SubRip, WebVTT and tables of them."""

from __future__ import annotations

from granite_gguf.formats.cues import cues
from granite_gguf.transcript import Transcript


def as_srt(_name: str, transcript: Transcript) -> str:
    """SubRip: numbered subtitles, times with a comma."""
    blocks = []
    for number, cue in enumerate(cues(transcript), start=1):
        times = f"{_clock(cue.start, ',')} --> {_clock(cue.end, ',')}"
        lines = "\n".join(line.replace("-->", "->") for line in cue.lines)
        blocks.append(f"{number}\n{times}\n{lines}\n\n")
    return "".join(blocks)


def as_vtt(_name: str, transcript: Transcript) -> str:
    """WebVTT; its three special characters are escaped."""
    blocks = ["WEBVTT\n\n"]
    for cue in cues(transcript):
        times = f"{_clock(cue.start, '.')} --> {_clock(cue.end, '.')}"
        text = "\n".join(cue.lines)
        for character, escape in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
            text = text.replace(character, escape)
        blocks.append(f"{times}\n{text}\n\n")
    return "".join(blocks)


def as_tsv(_name: str, transcript: Transcript) -> str:
    """A table of the subtitles with a header; times in integer milliseconds."""
    rows = ["start\tend\ttext\n"]
    rows += [f"{cue.start}\t{cue.end}\t{' '.join(cue.lines)}\n" for cue in cues(transcript)]
    return "".join(rows)


def _clock(milliseconds: int, mark: str) -> str:
    """Hours, minutes, seconds and milliseconds.

    >>> _clock(3_723_004, ",")
    '01:02:03,004'
    """
    seconds, rest = divmod(milliseconds, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{seconds:02d}{mark}{rest:03d}"
