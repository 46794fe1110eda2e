"""A transcript as plain text and as JSON."""

from __future__ import annotations

import json

from granite_gguf.formats.cues import USUAL, Shape
from granite_gguf.transcript import Transcript


def as_text(_name: str, transcript: Transcript, _shape: Shape = USUAL) -> str:
    """A line for each segment that has text."""
    return "".join(f"{s.labelled}\n" for s in transcript.segments if s.text.strip())


def as_json(name: str, transcript: Transcript, _shape: Shape = USUAL) -> str:
    """One indented object."""
    values = {"file": name, **transcript.to_dict()}
    return json.dumps(values, ensure_ascii=False, indent=2) + "\n"


def as_json_line(name: str, transcript: Transcript, _shape: Shape = USUAL) -> str:
    """One object on one line."""
    return json.dumps({"file": name, **transcript.to_dict()}, ensure_ascii=False) + "\n"
