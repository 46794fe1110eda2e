"""What is asked of each recording, the same by ``transcribe`` and by ``bulk``."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from granite_gguf import passes
from granite_gguf.cli.inputs import parse_clip
from granite_gguf.cli.options import COMPUTATION, INPUT, OUTPUT, Channels, ChunkSeconds, Vad
from granite_gguf.errors import InputError
from granite_gguf.transcription.options import TranscribeOptions

_wish = partial(typer.Option, rich_help_panel="Autoregressive models", show_default=False)

Clip = Annotated[
    str | None,
    typer.Option(
        "--clip",
        metavar="START-END",
        help="Take this stretch of each recording, in seconds or as H:MM:SS; without END to the "
        "end. Times stay those of the recording.",
        rich_help_panel=INPUT,
        show_default=False,
    ),
]
Task = Annotated[
    passes.Task, _wish(metavar="TASK", help="'transcribe' (default), or 'translate' what is said.")
]
To = Annotated[
    str | None,
    _wish("--to", metavar="LANGUAGE", help="Translate into this one: a code or an English name."),
]
Punctuation = Annotated[
    bool | None,
    _wish(
        "--punctuation/--no-punctuation",
        help="Write punctuation and capitals; otherwise as the model's card does.",
    ),
]
_hotword = partial(typer.Option, rich_help_panel=OUTPUT, show_default=False)
Keywords = Annotated[
    str | None,
    _hotword(
        "--hotwords",
        "--keywords",
        metavar="A,B",
        help="Names and terms that are probably said, for NAR models with a weight where 'A :2' "
        "has one: those are listened for, others are told.",
    ),
]
HotwordsFile = Annotated[
    Path | None, _hotword(metavar="FILE", help="The same from a text file, one on each line.")
]
# Two names of this length on a line leave the help beside them no room.
KeywordsFile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="--hotwords-file.", hidden=True)
]
Prompt = Annotated[
    str | None, _wish(metavar="TEXT", help="Ask by this instruction in place of all others.")
]
Speakers = Annotated[bool, _wish("--speakers", help="Tell who speaks.")]
Context = Annotated[
    float | None,
    _wish(
        metavar="S",
        help="Plus: hear up to so many seconds before each piece of a longer recording again and "
        "continue their text, so that speakers keep their numbers; more work.",
    ),
]
MaxTokens = Annotated[
    int | None,
    _wish(
        min=1,
        metavar="N",
        help="The most tokens of a pass's text; by default 200, more for more than 30 s.",
    ),
]
Draft = Annotated[
    passes.Draft,
    _wish(
        metavar="USE",
        help="'auto' (default) checks the encoder's hypothesis many tokens at a time, which "
        "changes no text and is faster; 'off' writes token by token.",
    ),
]

Language = Annotated[
    str | None,
    typer.Option(
        "--language",
        metavar="CODE",
        help="The language that is spoken, as JSON tells it: models find out by themselves, and "
        "refuse one that they do not know.",
        rich_help_panel=OUTPUT,
        show_default=False,
    ),
]
MinConfidence = Annotated[
    float | None,
    typer.Option(
        metavar="P",
        help="Leave out what the model is less sure of, from 0 to 1; by default what is probably "
        "no speech, 0 leaves out nothing.",
        rich_help_panel=OUTPUT,
        show_default=False,
    ),
]
Editor = Annotated[
    passes.Editor | None,
    typer.Option(
        "--editor",
        metavar="WHEN",
        help="NAR models: 'always' (default) edits the encoder's hypothesis, 'auto' (default with "
        "--precision fast) only where it is not sure, 'never' does without; faster, with more "
        "errors.",
        rich_help_panel=COMPUTATION,
        show_default=False,
    ),
]


@dataclass(frozen=True)
class Wishes:
    """What is asked of each recording."""

    clip: Clip = None
    channels: Channels = passes.Channels.MIXED
    chunk_seconds: ChunkSeconds = None
    vad: Vad = passes.Vad.ENERGY
    task: Task = passes.Task.TRANSCRIBE
    to: To = None
    punctuation: Punctuation = None
    keywords: Keywords = None
    hotwords_file: HotwordsFile = None
    keywords_file: KeywordsFile = None
    prompt: Prompt = None
    speakers: Speakers = False
    max_tokens: MaxTokens = None
    draft: Draft = passes.Draft.AUTO
    editor: Editor = None
    language: Language = None
    min_confidence: MinConfidence = None
    context: Context = None

    def options(self) -> TranscribeOptions:
        """The same for :meth:`granite_gguf.Model.transcribe`, in plain values.

        Raises:
            InputError: a clip is none, a keyword is empty, or their file cannot be read.
        """
        return {
            "clip": None if self.clip is None else parse_clip(self.clip),
            "channels": self.channels.value,
            "chunk_seconds": self.chunk_seconds,
            "vad": self.vad.value,
            "task": self.task.value,
            "to": self.to,
            "punctuation": self.punctuation,
            "keywords": all_keywords(self.keywords, self.hotwords_file, self.keywords_file),
            "prompt": self.prompt,
            "speakers": self.speakers,
            "max_tokens": self.max_tokens,
            "draft": self.draft.value,
            "editor": self.editor and self.editor.value,
            "language": self.language,
            "min_confidence": self.min_confidence,
            "context": self.context,
        }


def all_keywords(named: str | None, *files: Path | None) -> tuple[str, ...]:
    """The keywords of all these options.

    Raises:
        InputError: one is empty, or a file cannot be read.
    """
    found = [word.strip() for word in named.split(",")] if named is not None else []
    for file in filter(None, files):
        try:
            text = file.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
            raise InputError(f"{file}: the hotwords cannot be read: {reason}") from error
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        if not lines:
            raise InputError(f"{file}: has no hotwords; expected one on each line")
        found += lines
    if not all(found):
        raise InputError(f"--hotwords {named!r}: one of them is empty")
    return tuple(found)
