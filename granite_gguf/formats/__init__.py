"""A transcript as a file: one writer for each format.

txt     a line for each segment
json    one object: text, segments, words where they were timed
jsonl   the same object on one line, with the file's name
srt     SubRip subtitles
vtt     WebVTT subtitles
lrc     lyrics, as players show them
tsv     start, end, text of each subtitle; times in integer milliseconds
csv     the same table with commas
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from granite_gguf.formats import objects, subtitles
from granite_gguf.formats.cues import Shape
from granite_gguf.transcript import Transcript


@dataclass(frozen=True)
class Format:
    """How a transcript is written.

    Attributes:
        render: makes the file's text from the recording's name, its transcript and the shape of
            subtitles.
        needs_words: whether it is made of subtitles, for which the words must have been timed.
        one_line: whether the transcripts of several recordings can follow one another.
    """

    render: Callable[[str, Transcript, Shape], str]
    needs_words: bool = False
    one_line: bool = False


FORMATS: dict[str, Format] = {
    "txt": Format(objects.as_text, one_line=True),
    "json": Format(objects.as_json),
    "jsonl": Format(objects.as_json_line, one_line=True),
    "srt": Format(subtitles.as_srt, needs_words=True),
    "vtt": Format(subtitles.as_vtt, needs_words=True),
    "lrc": Format(subtitles.as_lrc, needs_words=True),
    "tsv": Format(subtitles.as_tsv, needs_words=True),
    "csv": Format(subtitles.as_csv, needs_words=True),
}

__all__ = ["FORMATS", "Format", "Shape"]
