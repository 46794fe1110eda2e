"""A transcript as OpenAI's clients expect it."""

from __future__ import annotations

import json
import zlib
from bisect import bisect_right
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from math import ceil, log
from typing import Any

from starlette.responses import JSONResponse, PlainTextResponse, Response

from granite_gguf.formats import FORMATS
from granite_gguf.formats.cues import Shape, phrases
from granite_gguf.serve.faults import told
from granite_gguf.serve.form import Fields
from granite_gguf.transcript import Segment, Transcript, Word, joined

_UNKNOWN_LANGUAGE = "und"  # ISO 639 for a language that is not determined
_PHRASE = Shape(width=84, lines=1)
_LEAST = 1e-10  # a probability whose logarithm there is


def answer(fields: Fields, transcript: Transcript) -> Response:
    """In the form that was asked for."""
    form, text = fields.response_format, transcript.text.strip()
    if form == "text":
        return PlainTextResponse(text + "\n")
    if form in ("srt", "vtt"):
        kind = "text/vtt" if form == "vtt" else "application/x-subrip"
        return Response(_subtitles(form, transcript), media_type=f"{kind}; charset=utf-8")
    values: dict[str, Any] = {"text": text, "usage": _usage(transcript.duration)}
    if form != "json":
        values |= {
            "task": "translate" if fields.translating else "transcribe",
            "duration": transcript.duration,
        }
    if form == "diarized_json":
        values["segments"] = list(_turns(transcript.words))
    if form == "verbose_json":
        values["language"] = fields.language or _UNKNOWN_LANGUAGE
        if "segment" in fields.granularities:
            values["segments"] = list(_segments(transcript))
        if "word" in fields.granularities:
            values["words"] = _words(transcript.words)
        values |= _included(fields, transcript)
    if remarks := [remark for segment in transcript.segments for remark in segment.remarks]:
        values["remarks"] = remarks
    return JSONResponse(values)


async def events(fields: Fields, segments: AsyncIterator[Segment]) -> AsyncIterator[str]:
    """Server-sent events: what each segment adds, then the whole. Words where they are timed."""
    found: list[Segment] = []
    said = ""
    try:
        async for segment in segments:
            found.append(segment)
            whole = joined(part.text for part in found).strip()
            event = {"type": "transcript.text.delta", "delta": whole[len(said) :]}
            if fields.timed:
                timed = {"start": segment.start, "end": segment.end}
                yield _event({**event, **timed, "words": _words(segment.words or ())})
            elif whole != said:
                yield _event(event)
            said = whole
    except Exception as error:
        yield _event({"type": "error", **told(error).body()})
        return
    transcript = Transcript.of(found)
    done: dict[str, Any] = {
        "type": "transcript.text.done",
        "text": said,
        "usage": _usage(transcript.duration),
    }
    if fields.timed:
        done |= {"duration": transcript.duration, **_included(fields, transcript)}
    yield _event(done)


def _event(values: dict[str, Any]) -> str:
    return f"data: {json.dumps(values, ensure_ascii=False)}\n\n"


def _words(words: Iterable[Word]) -> list[dict[str, Any]]:
    return [word.to_dict() for word in words]


def _subtitles(form: str, transcript: Transcript) -> str:
    return FORMATS[form].render("", transcript, Shape())


def _included(fields: Fields, transcript: Transcript) -> dict[str, str]:
    """Subtitles as texts, where they are asked for besides."""
    return {form: _subtitles(form, transcript) for form in fields.included}


def _usage(seconds: float) -> dict[str, Any]:
    return {"type": "duration", "seconds": ceil(seconds)}


def _phrases(words: Sequence[Word]) -> Iterator[tuple[dict[str, Any], list[Word]]]:
    """What could be a subtitle, and its words; a pass of the model may be minutes."""
    for group in phrases(words, _PHRASE):
        start, end = min(word.start for word in group), max(word.end for word in group)
        text = " ".join(word.text for word in group)
        yield {"start": round(start, 3), "end": round(end, 3), "text": text}, group


def _turns(words: Sequence[Word]) -> Iterator[dict[str, Any]]:
    for number, (phrase, group) in enumerate(_phrases(words)):
        kind = {"type": "transcript.text.segment", "id": f"seg_{number:03d}"}
        yield {**kind, **phrase, "speaker": group[0].speaker}


def _segments(transcript: Transcript) -> Iterator[dict[str, Any]]:
    starts = [segment.start for segment in transcript.segments]
    for number, (phrase, group) in enumerate(_phrases(transcript.words)):
        spoken = phrase["text"].encode()
        within = transcript.segments[max(0, bisect_right(starts, group[0].start) - 1)]
        yield {
            "id": number,
            "seek": round(100 * phrase["start"]),
            **phrase,
            "tokens": [],
            "temperature": 0.0,
            "avg_logprob": sum(log(max(w.probability, _LEAST)) for w in group) / len(group),
            "compression_ratio": len(spoken) / len(zlib.compress(spoken)),
            "no_speech_prob": within.no_speech_prob,
        }
