"""What goes through one pass of a model, whatever its architecture."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event
from typing import Any, Protocol

from granite_gguf.arrays import FloatArray, Samples
from granite_gguf.errors import CancelledError, DeadlineError, InputError
from granite_gguf.named import Named
from granite_gguf.transcript import Segment


class Stop:
    """Tells whether a recording is still wanted.

    Args:
        seconds: from now on, after which it is not; by default it always is.
    """

    def __init__(self, seconds: float | None = None) -> None:
        self._cancelled = Event()
        self._seconds = seconds
        self._end = None if seconds is None else time.monotonic() + seconds

    def cancel(self) -> None:
        """From now on it is not."""
        self._cancelled.set()

    @property
    def remaining(self) -> float | None:
        """Seconds that are left, at least 0; None without a deadline."""
        return None if self._end is None else max(0.0, self._end - time.monotonic())

    def asked(self) -> bool:
        """Whether it is wanted no more."""
        return self._cancelled.is_set() or self.remaining == 0

    def check(self) -> None:
        """Raise if it is wanted no more.

        Raises:
            CancelledError: it was cancelled.
            DeadlineError: its time is over.
        """
        if self._cancelled.is_set():
            raise CancelledError("the transcription was cancelled")
        if self.remaining == 0:
            raise DeadlineError(f"the transcription was not done within {self._seconds:g} s")


@dataclass(frozen=True)
class Before:
    """What of a recording is heard again before a piece, whose text goes on where this one ends.

    Attributes:
        samples: mono, at the model's rate.
        text: all that is said in them.
    """

    samples: Samples
    text: str


@dataclass(frozen=True)
class Piece:
    """Part of a recording.

    Attributes:
        start: its first sample's number in the recording.
        samples: mono, at the model's rate.
        timings: seconds spent on it by stage, which are filled in.
        within: the first sample and the one behind the last of the stretch of the recording that
            it stands for, which is longer where silence is left out; by default its own.
        stop: tells whether it is still wanted.
        follows: whether something of the recording went before it.
        channel: where it is from, 1 the first, if channels are told apart.
        before: what is heard again, if that is asked for and there is any.
        features: log-mel frames ``(T, 160)`` of the samples, where they were made beforehand.
    """

    start: int
    samples: Samples
    timings: dict[str, float] = field(default_factory=dict)
    within: tuple[int, int] | None = None
    stop: Stop = field(default_factory=Stop)
    follows: bool = False
    channel: int | None = None
    before: Before | None = None
    features: FloatArray | None = None

    @property
    def again(self) -> int:
        """How many samples are heard again."""
        return 0 if self.before is None else len(self.before.samples)

    @property
    def stretch(self) -> tuple[int, int]:
        """The first sample that it stands for, and the one behind the last."""
        return self.within or (self.start, self.start + len(self.samples))


class Vad(Named):
    """What tells silence from what is transcribed."""

    ENERGY = "energy"
    SILERO = "silero"
    OFF = "off"


class Channels(Named):
    """What becomes of several channels."""

    MIXED = "mixed"
    EACH = "each"


class Task(Named):
    """What to do with what is said."""

    TRANSCRIBE = "transcribe"
    TRANSLATE = "translate"


class Draft(Named):
    """Whether the encoder's hypothesis is a draft of the text."""

    AUTO = "auto"
    OFF = "off"


class Cache(Named):
    """What the keys and values of a text are kept as while it is written."""

    F16 = "f16"
    F32 = "f32"


class Editor(Named):
    """Whether a language model edits the encoder's hypothesis."""

    ALWAYS = "always"
    AUTO = "auto"
    NEVER = "never"


_WEIGHT = re.compile(r"\d+(\.\d+)?")

TRANSLATING = "granite-speech-4.1-2b, granite-4.0-1b-speech or granite-speech-3.3"
PUNCTUATING = "granite-speech-4.1-2b"
TELLING_SPEAKERS = "granite-speech-4.1-2b-plus"
CONTINUING = "granite-speech-4.1-2b-plus"
ASKED_IN_WORDS = "granite-speech-4.1-2b, its plus form, granite-4.0-1b-speech or granite-speech-3.3"
"""The models of the family that can do something, for messages."""


@dataclass(frozen=True)
class Hotword:
    """A name or a term that is probably said.

    Attributes:
        text: as it is to be written.
        weight: how much less like it than usual what is heard may be; 1 as usual.
    """

    text: str
    weight: float = 1.0

    @classmethod
    def of(cls, given: str) -> Hotword:
        """A text, with a weight where one stands behind it.

        Raises:
            InputError: there is nothing else.

        >>> Hotword.of("New York"), Hotword.of("Oslo :1.5")
        (Hotword(text='New York', weight=1.0), Hotword(text='Oslo', weight=1.5))
        """
        text, mark, weight = given.rpartition(" :")
        weighed = mark and _WEIGHT.fullmatch(weight) is not None
        found = cls(text.strip(), float(weight)) if weighed else cls(given.strip())
        if not found.text:
            raise InputError("a keyword is empty")
        return found


@dataclass(frozen=True)
class Wish:
    """What is wanted of a recording.

    Attributes:
        translate_to: the language, by code or English name; by default it is transcribed.
        punctuation: whether to write with punctuation and capitals; by default as the model's
            card does.
        keywords: names and terms that are probably said, in the form of :meth:`Hotword.of`.
        prompt: an instruction in place of all others.
        speakers: whether to tell who speaks.
        word_times: whether the model itself is to tell when each word ends.
    """

    translate_to: str | None = None
    punctuation: bool | None = None
    keywords: tuple[str, ...] = ()
    prompt: str | None = None
    speakers: bool = False
    word_times: bool = False

    @property
    def hotwords(self) -> tuple[Hotword, ...]:
        """The keywords with their weights.

        Raises:
            InputError: one is empty.
        """
        return tuple(map(Hotword.of, self.keywords))


NOTHING_ELSE = Wish()


@dataclass(frozen=True)
class Options:
    """What to compute.

    Attributes:
        chunk_seconds: the longest piece; by default what the model's :class:`PassLimits` say.
        word_times: whether to time words and tell their probabilities.
        rough_times: whether words that nothing times may be spread evenly over their piece.
        vad: what finds the silence that is left out.
        wish: what is wanted besides the words in their language as they are said.
        max_tokens: the most tokens of a piece's text; by default so many as its length is worth.
        draft: whether the encoder's hypothesis may be looked at to write faster.
        editor: whether the hypothesis of a NAR model is edited, ``auto`` where it is not sure; by
            default ``always``, or ``auto`` where precision is ``fast``.
        language: what is said to be spoken, which is only checked.
        min_confidence: a segment less sure than this has no text; by default one has none that is
            probably no speech.
        context: seconds before a piece that are heard again, whose text it continues.
    """

    chunk_seconds: float | None = None
    word_times: bool = False
    rough_times: bool = False
    vad: Vad = Vad.ENERGY
    wish: Wish = NOTHING_ELSE
    max_tokens: int | None = None
    draft: bool = True
    editor: Editor | None = None
    language: str | None = None
    min_confidence: float | None = None
    context: float | None = None


def check_language(language: str | None, heard: Sequence[str]) -> None:
    """See that a model hears the language that is said to be spoken.

    Raises:
        InputError: it does not.

    >>> check_language("pt-BR", ["en", "pt"])
    """
    if language is not None and language.partition("-")[0].lower() not in heard:
        raise InputError(
            f"language is {language!r}, expected one of {', '.join(heard)}, or none: the model "
            "finds out by itself"
        )


APART_AT_A_TIME = 2
"""Passes that share a device of its own: one is filled and emptied while the other computes."""


@dataclass(frozen=True)
class Together:
    """How many pieces go through one pass.

    Attributes:
        pieces: at most so many.
        seconds: of all of them, from which on a pass does not get faster by the second.
        padded: whether each takes as long as the longest. Then a pass is computed elsewhere than
            on the processor, which meanwhile prepares others.
    """

    pieces: int = 8
    seconds: float = 16.0
    padded: bool = False


@dataclass(frozen=True)
class PassLimits:
    """How much audio goes through one pass of a model.

    Attributes:
        sample_rate: in Hz.
        most: samples that fit, if little is said in them.
        piece: samples of the longest piece, unless another length is asked for.
        room: what limits ``most``, for messages: ``the model's 4096 positions``.
        together: how many pieces share a pass.
    """

    sample_rate: int
    most: int
    piece: int
    room: str
    together: Together = Together()


class Lane(Protocol):
    """What computes passes of a model, on a runtime of its own. Several threads take turns.

    Attributes:
        stages: what a pass consists of, one by one; which there are depends on the model.
        limits: how much audio a pass takes.
    """

    @property
    def stages(self) -> Any: ...

    @property
    def limits(self) -> PassLimits: ...

    def check(self, options: Options) -> None:
        """Refuse what the model cannot do.

        Raises:
            InputError: it is asked for.
        """

    def prepare(self, piece: Piece) -> Piece:
        """A piece with its features, which takes one thread of the processor and nothing else.

        Raises:
            AudioError: it cannot be transcribed.
        """

    def one_pass(self, pieces: Sequence[Piece], options: Options) -> list[Segment | None]:
        """What is said in pieces of one or several recordings, computed together.

        Each gets what it would get alone; seconds are shared out by length. A piece that is wanted
        no more may be given up, and gets anything.

        Returns:
            A segment of index 0 for each piece, or None where it does not fit.

        Raises:
            AudioError: a piece cannot be transcribed.
        """

    def close(self) -> None:
        """Wait for what is being computed, and compute nothing more."""


@contextmanager
def timed(stage: str, pieces: Sequence[Piece]) -> Iterator[None]:
    """Share out the seconds that a block takes by the lengths of the pieces."""
    start = time.perf_counter()
    yield
    spent = time.perf_counter() - start
    samples = sum(len(piece.samples) for piece in pieces)
    for piece in pieces:
        share = len(piece.samples) / samples if len(pieces) > 1 else 1.0
        piece.timings[stage] = piece.timings.get(stage, 0.0) + spent * share
