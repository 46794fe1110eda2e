"""The options of a transcription, as a caller names them."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from types import NoneType
from typing import Any, NamedTuple, TypedDict

from granite_gguf.errors import InputError, InputTypeError, brief
from granite_gguf.passes import Channels, Draft, Editor, Options, Task, Vad, Wish
from granite_gguf.sound.clip import Clip
from granite_gguf.sound.reading import Selection
from granite_gguf.sound.sndfile import RawFormat

_INTO = "en"  # the language that most can be translated into


class TranscribeOptions(TypedDict, total=False):
    """What :meth:`granite_gguf.Model.transcribe` and its siblings take; each may be left out.

    From ``task`` to ``draft``, all is for autoregressive models, as far as each can do it; where
    one cannot, the error names one that can.

    Attributes:
        sample_rate: the rate of samples given as an array, in Hz; the model's by default.
        channels: ``mixed``, or ``each`` to transcribe each channel by itself; segments are then in
            the order in which they begin, and have a ``channel``, and words a speaker.
        channel: the channel to take, 1 the first; by default the mean of all, or the louder one
            where they cancel out, with an AudioWarning.
        track: the audio track of a container, 1 the first; by default the first.
        raw: how to read a file, a pipe or bytes without a header.
        max_seconds: the longest recording that is taken; a longer one is a TooLongError as soon as
            that is seen, and is decoded no further.
        clip: where to begin and where to end, in seconds, None being the recording's end; times
            stay those of the recording. By default all of it.
        chunk_seconds: the longest stretch of audio for one pass, from 5 to what the model can take
            (408 the released one); longer audio is cut at pauses. By default what the model's file
            tells, ``max_pass_seconds``, or 30 where it does not.
        word_times: whether to time the words and tell their probabilities.
        rough_times: whether words that nothing in the model times may be spread evenly over their
            piece, as is enough for subtitles; otherwise that is an error.
        vad: ``energy`` leaves out silence at both ends and in long pauses, by its level beside
            that of the recording; ``silero`` whatever is no speech, by Silero's detector (extra
            ``vad``); ``off`` leaves all in.
        task: ``transcribe``, or ``translate`` with an autoregressive model.
        to: the language to translate into, as a code or by its English name; English by default.
        punctuation: whether to write punctuation and capitals; by default as the model's card does.
        hotwords: names and terms that are probably said. NAR models listen for them, and put them
            where they hear something like them; others are told them in their prompt. ``Oslo :2``
            has a weight, for NAR models: by so much less like it may be what is heard.
        keywords: the same.
        prompt: an instruction in place of all others.
        speakers: whether to tell who speaks.
        max_tokens: the most tokens of a pass's text; by default 200, and for longer pieces 200
            every 30 s.
        draft: ``auto`` takes the encoder's hypothesis as a draft, which changes no text and makes
            it faster; ``off`` does without.
        editor: of NAR models, ``always`` edits the encoder's hypothesis, ``auto`` only where it is
            not sure of each of its tokens, ``never`` does without; faster, with more errors. By
            default ``always``, or ``auto`` where the model was loaded with the precision ``fast``.
        language: the code of the language that is spoken. Models find out by themselves, so that it
            changes nothing; one that the model does not hear is an error.
        min_confidence: leave out the text of segments whose ``confidence`` is less; a remark tells.
            By default of those that are more probably no speech than speech (``no_speech_prob``)
            and of which the model is less than half sure; 0 leaves out none.
        context: with plus, so many seconds before each piece of a longer recording are heard again,
            whole pieces of them, and their text is continued, so that speakers keep their numbers.
            By default each piece is heard by itself, which is less work.
    """

    sample_rate: float | None
    channels: str
    channel: int | None
    track: int | None
    raw: RawFormat | None
    max_seconds: float | None
    clip: tuple[float, float | None] | None
    chunk_seconds: float | None
    word_times: bool
    rough_times: bool
    vad: str
    task: str
    to: str | None
    punctuation: bool | None
    hotwords: Sequence[str]
    keywords: Sequence[str]
    prompt: str | None
    speakers: bool
    max_tokens: int | None
    draft: str
    editor: str | None
    language: str | None
    min_confidence: float | None
    context: float | None


def _clip(given: Any) -> Clip:
    start, end = given if isinstance(given, (tuple, list)) and len(given) == 2 else ("", "")
    if not isinstance(start, Real) or not isinstance(end, (Real, NoneType)):
        raise InputTypeError(
            f"clip is {brief(given)}, expected two numbers of seconds, where it begins and ends"
        )
    return Clip(float(start), None if end is None else float(end))


class Divided(NamedTuple):
    """The same, for those whom it concerns: who reads, and who computes."""

    sample_rate: float | None
    take: Selection
    options: Options


_WISHED = ("task", "to", "punctuation", "keywords", "prompt", "speakers")


def wish_of(
    *,
    task: str = Task.TRANSCRIBE,
    to: str | None = None,
    punctuation: bool | None = None,
    keywords: Sequence[str] = (),
    prompt: str | None = None,
    speakers: bool = False,
) -> Wish:
    """What is wanted, from options as a caller names them.

    Raises:
        InputError: they contradict each other, or a value is none that is known.
    """
    translating = Task.of(task) is Task.TRANSLATE
    if to is not None and not translating:
        raise InputError(f"to is {to!r} without the task 'translate', to which it belongs")
    if isinstance(keywords, str):
        raise InputTypeError("hotwords are one string, expected several strings")
    return Wish(
        translate_to=(to or _INTO) if translating else None,
        punctuation=punctuation,
        keywords=tuple(keywords),
        prompt=prompt,
        speakers=speakers,
    )


def divide(given: dict[str, Any]) -> Divided:
    """Divide options by whom they concern.

    Raises:
        InputTypeError: there is no such option.
        InputError: a value is none that is known.
    """
    unknown = given.keys() - TranscribeOptions.__annotations__.keys()
    if unknown:
        known = ", ".join(TranscribeOptions.__annotations__)
        raise InputTypeError(f"there is no option {min(unknown)!r}; expected some of {known}")
    if given.get("clip") is not None:
        given["clip"] = _clip(given["clip"])
    if "channels" in given:
        given["apart"] = Channels.of(given.pop("channels")) is Channels.EACH
    of_reading = ("channel", "track", "raw", "max_seconds", "clip", "apart")
    take = {name: given.pop(name) for name in of_reading if name in given}
    rate = given.pop("sample_rate", None)
    if "vad" in given:
        given["vad"] = Vad.of(given["vad"])
    if "draft" in given:
        given["draft"] = Draft.of(given["draft"]) is Draft.AUTO
    if given.get("editor") is not None:
        given["editor"] = Editor.of(given["editor"])
    if take.get("apart") and given.get("speakers"):
        raise InputError("speakers are told by their channels or by the model: choose one of both")
    if "hotwords" in given:
        if given.get("keywords"):
            raise InputError("hotwords and keywords are the same: give one of them")
        given["keywords"] = given.pop("hotwords")
    asked = {name: given.pop(name) for name in _WISHED if name in given}
    if asked:
        given["wish"] = wish_of(**asked)
    return Divided(rate, Selection(**take), Options(**given))
