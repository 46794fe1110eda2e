"""The options of a transcription, as a caller names them."""

from __future__ import annotations

from typing import Any, NamedTuple, TypedDict

from granite_gguf.errors import InputTypeError
from granite_gguf.passes import Options, Vad
from granite_gguf.sound.reading import Selection
from granite_gguf.sound.sndfile import RawFormat


class TranscribeOptions(TypedDict, total=False):
    """What :meth:`granite_gguf.Model.transcribe` and its siblings take; each may be left out.

    Attributes:
        sample_rate: the rate of samples given as an array, in Hz; the model's by default.
        channel: the channel to take, 1 the first; by default the mean of all, or the louder one
            where they cancel out, with an AudioWarning.
        track: the audio track of a container, 1 the first; by default the first.
        raw: how to read a file, a pipe or bytes without a header.
        chunk_seconds: the longest stretch of audio for one pass, from 5 to what the model can take
            (408 the released one). By default a recording that fits in one pass is one, and longer
            ones are cut at pauses into pieces of at most 60 s.
        word_times: whether to time the words and tell their probabilities.
        vad: ``energy`` leaves out silence at both ends and in long pauses, by its level beside
            that of the recording; ``off`` leaves it in.
    """

    sample_rate: float | None
    channel: int | None
    track: int | None
    raw: RawFormat | None
    chunk_seconds: float | None
    word_times: bool
    vad: str


class Divided(NamedTuple):
    """The same, for those whom it concerns: who reads, and who computes."""

    sample_rate: float | None
    take: Selection
    options: Options


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
    take = {name: given.pop(name) for name in ("channel", "track", "raw") if name in given}
    rate = given.pop("sample_rate", None)
    if "vad" in given:
        given["vad"] = Vad.of(given["vad"])
    return Divided(rate, Selection(**take), Options(**given))
