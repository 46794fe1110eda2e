"""The fields of a request: what they may be, and what they ask of a model.

What cannot be honoured and would change the text is refused, here or by the model; of what changes
nothing a note tells.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import UploadFile

from granite_gguf.passes import Task, Vad
from granite_gguf.serve.faults import ApiError
from granite_gguf.transcription.options import TranscribeOptions

ResponseFormat = Literal["json", "text", "srt", "vtt", "verbose_json", "diarized_json"]

_FINDS_OUT = "the model finds out the language by itself"
_NESTED = re.compile(r"(\w+)\[(\w+)\]")


class Fields(BaseModel):
    """What both forms have."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    language: str | None = Field(None, description=f"A code, which is only checked: {_FINDS_OUT}.")
    prompt: str | None = Field(
        None, description="An instruction in place of the model's own; for autoregressive ones."
    )
    response_format: ResponseFormat = "json"
    temperature: float = Field(0, description="0: the model computes one answer.")
    vad: Vad = Field(
        Vad.ENERGY,
        description="'energy' leaves out silence before the model, 'silero' what is no "
        "speech, where that is installed, 'off' nothing.",
    )

    chunk_seconds: float | None = Field(
        None, description="Cut longer audio in pauses: streamed text then comes after each piece."
    )

    min_confidence: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Leave out what the model is less sure of; by default what is probably no "
        "speech, 0 leaves out nothing.",
    )

    @property
    def timed(self) -> bool:
        """Whether the answer is made of times of words."""
        return self.response_format not in ("json", "text")

    def options(self, max_seconds: float) -> TranscribeOptions:
        """What the model is asked for.

        Raises:
            ApiError: it cannot do that.
        """
        if self.temperature != 0:
            raise _cannot(
                "temperature",
                f"temperature is {self.temperature:g}: this model computes one answer, as with 0",
            )
        options: TranscribeOptions = {
            "word_times": self.timed,
            "rough_times": self.response_format in ("srt", "vtt", "diarized_json"),
            "vad": str(self.vad),
            "chunk_seconds": self.chunk_seconds,
            "language": self.language,
            "min_confidence": self.min_confidence,
            "max_seconds": max_seconds,
            "task": str(Task.TRANSLATE if self.translating else Task.TRANSCRIBE),
        }
        if self.prompt:
            options["prompt"] = self.prompt
        if self.response_format == "diarized_json":
            options["speakers"] = True
        return options

    @property
    def translating(self) -> bool:
        """Whether the text is to be English, whatever is spoken."""
        return False

    @property
    def granularities(self) -> tuple[str, ...]:
        """What of the times is told in verbose_json."""
        return ("segment",)

    @property
    def included(self) -> tuple[str, ...]:
        """The subtitles that are told besides."""
        return ()

    def notes(self) -> list[str]:
        """What was taken and changes nothing."""
        return [] if self.language is None else [f"language: {_FINDS_OUT}"]


class Transcription(Fields):
    """The fields of OpenAI's ``/v1/audio/transcriptions``, besides the file."""

    model: str | None = Field(None, description="A name of /v1/models; by default the first.")
    timestamp_granularities: list[Literal["word", "segment"]] = Field(
        [], alias="timestamp_granularities[]", description="With verbose_json."
    )
    stream: bool = Field(False, description="Server-sent events; with verbose_json words, too.")
    chunking_strategy: Any = Field(
        None, description="'auto' or a 'server_vad' without numbers: silence is left out anyway."
    )
    hotwords: list[str] = Field(
        [], description="Names that are probably said; of NAR models with a weight in `A :2`."
    )
    include: list[Literal["srt", "vtt"]] = Field(
        [], alias="include[]", description="Subtitles, as texts in verbose_json."
    )

    @property
    def granularities(self) -> tuple[str, ...]:
        return tuple(self.timestamp_granularities) or super().granularities

    @property
    def included(self) -> tuple[str, ...]:
        return tuple(self.include)

    def options(self, max_seconds: float) -> TranscribeOptions:
        options = super().options(max_seconds)
        if any(self.hotwords):
            options["keywords"] = [word for word in self.hotwords if word]
        if self.include and self.response_format != "verbose_json":
            raise _cannot("include[]", "subtitles are included in verbose_json alone")
        if self.timestamp_granularities and self.response_format != "verbose_json":
            raise _cannot(
                "timestamp_granularities[]",
                f"they belong to verbose_json, and response_format is {self.response_format!r}",
            )
        if self.stream and self.response_format not in ("json", "text", "verbose_json"):
            raise _cannot("stream", f"{self.response_format} is not streamed, expected json")
        self._check_chunking()
        return options

    def _check_chunking(self) -> None:
        strategy = self.chunking_strategy
        if strategy in (None, "", "auto"):
            return
        if isinstance(strategy, str):
            try:
                strategy = json_of(strategy)
            except ValueError:
                strategy = {"type": strategy}
        if not isinstance(strategy, dict) or strategy.get("type") not in ("auto", "server_vad"):
            raise _cannot("chunking_strategy", "expected 'auto' or an object of type server_vad")
        if more := sorted(strategy.keys() - {"type"}):
            raise _cannot(
                "chunking_strategy", f"server_vad with {', '.join(more)}: they cannot be set here"
            )
        if strategy["type"] == "server_vad" and self.vad is Vad.OFF:
            raise _cannot("chunking_strategy", "server_vad and vad=off contradict each other")


class Translation(Fields):
    """The fields of ``/v1/audio/translations``, besides the file."""

    model: str | None = None

    @property
    def translating(self) -> bool:
        return True


class Inference(Fields):
    """The fields of ``/inference``, as the clients of whisper.cpp's server send them."""

    temperature_inc: float = Field(0, description="Steps of later attempts; there are none.")
    translate: bool = False
    no_timestamps: bool = False

    def options(self, max_seconds: float) -> TranscribeOptions:
        if self.language == "auto":
            self.language = None
        return super().options(max_seconds)

    @property
    def translating(self) -> bool:
        return self.translate

    @property
    def granularities(self) -> tuple[str, ...]:
        return ("segment",) if self.no_timestamps else ("segment", "word")

    def notes(self) -> list[str]:
        more = ["temperature_inc: there is one attempt"] if self.temperature_inc else []
        return super().notes() + more


def read(kind: type[Fields], items: Iterable[tuple[str, str | UploadFile]]) -> Fields:
    """The fields of a form, checked one by one; its file is left to others.

    Raises:
        ApiError: one of them is unknown, given twice or out of range.
    """
    lists = {n for n, f in kind.model_fields.items() if str(f.annotation).startswith("list")}
    values: dict[str, Any] = {}
    for key, value in items:
        if key == "file":
            continue
        if isinstance(value, UploadFile):
            raise ApiError(400, f"{key} is a file, expected a text", param=_shown(key))
        nested = _NESTED.fullmatch(key)
        if nested and nested[1] in kind.model_fields.keys() - lists:
            within = values.setdefault(nested[1], {})
            if not isinstance(within, dict) or nested[2] in within:
                raise ApiError(400, f"{nested[1]} is given twice", param=nested[1])
            within[nested[2]] = value
        elif key.removesuffix("[]") in lists:
            values.setdefault(key.removesuffix("[]"), []).append(value)
        elif key in values:
            raise ApiError(400, f"{key} is given twice", param=_shown(key))
        elif value:  # an empty one is none
            values[key] = value
    return checked(kind, values)


FieldsT = TypeVar("FieldsT", bound=Fields)


def checked(kind: type[FieldsT], values: Any) -> FieldsT:
    """Fields of some values by name.

    Raises:
        ApiError: one of them is unknown or out of range, or there are no names.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise _told(kind, error) from error


def json_of(text: str) -> Any:
    """What a client's JSON says.

    Raises:
        ValueError: it is none, goes too deep, or has half a character in it.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("it goes too deep") from None
    if "\\u" in text:
        json.dumps(value, ensure_ascii=False).encode()
    return value


def _told(kind: type[Fields], error: ValidationError) -> ApiError:
    first = error.errors(include_url=False, include_context=False)[0]
    name = _shown(str(first["loc"][0]) if first["loc"] else "")
    if first["type"] == "extra_forbidden":
        known = ", ".join(["file", *kind.model_fields])
        return ApiError(
            400, f"there is no field {name!r}, expected some of {known}",
            param=name, code="unknown_field",
        )  # fmt: skip
    given = str(first["input"])[:80]
    return ApiError(400, f"{name} is {given!r}: {first['msg']}", param=name)


def _cannot(param: str, message: str) -> ApiError:
    return ApiError(400, message, param=param, code="unsupported_value")


def _shown(name: str) -> str:
    return name[:80]
