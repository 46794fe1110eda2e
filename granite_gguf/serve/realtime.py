"""``WS /v1/realtime``: OpenAI's events of a transcription session, PCM of 16 bits.

    session.update → session.updated
    input_audio_buffer.append … ┬→ …transcription.interim (not OpenAI's)
                                └→ …transcription.delta, .completed: at pauses, and at a commit

What is completed never changes. The interim text is made anew each time: a delta cannot take back.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import time
from contextlib import suppress
from dataclasses import dataclass
from math import ceil
from typing import Any
from uuid import uuid4

from starlette.websockets import WebSocket, WebSocketDisconnect

from granite_gguf.errors import brief
from granite_gguf.live import Live
from granite_gguf.serve.desk import Desk
from granite_gguf.serve.faults import ApiError, told
from granite_gguf.serve.form import Transcription, checked, json_of
from granite_gguf.serve.guard import KEY_PROTOCOL
from granite_gguf.serve.work import Work
from granite_gguf.transcript import Segment

RATE = 24_000
_INTERIM_SECONDS = 0.4
_BEHIND_SECONDS = 0.05
_INPUT = {"format", "transcription", "turn_detection", "noise_reduction"}
_SESSION = {
    "type", "audio", "include", "turn_detection", "input_audio_format",
    "input_audio_transcription", "input_audio_noise_reduction",
}  # fmt: skip
_HEARING = {"model", "language", "prompt", "hotwords", "temperature", "vad", "chunk_seconds"}
_OF = "conversation.item.input_audio_transcription"


@dataclass
class _Speech:
    """What was said since the last commit.

    Attributes:
        live: takes samples.
        work: follows its segments.
        telling: sends them.
        item: the name of the next final segment.
    """

    live: Live
    work: Work
    telling: asyncio.Task[None]
    item: str


class Session:
    """One connection. Belongs to one event loop.

    Args:
        socket: the connection, not yet accepted.
        desk: gives out models, and counts.
        max_seconds: of what is said between two commits.
    """

    def __init__(self, socket: WebSocket, desk: Desk, max_seconds: float) -> None:
        self._socket, self._desk, self._max_seconds = socket, desk, max_seconds
        self._name = "sess_" + uuid4().hex
        self._fields = Transcription.model_validate({})
        self._model: str | None = socket.query_params.get("model")
        self._speech: _Speech | None = None
        self._before: str | None = None  # the last item
        self._in_pauses = True

    async def run(self) -> None:
        """Answer until the client goes away."""
        offered = self._socket.scope.get("subprotocols", [])
        accepted = next((one for one in offered if not one.startswith(KEY_PROTOCOL)), None)
        await self._socket.accept(subprotocol=accepted)
        try:
            self._desk.find(self._model)
            await self._send("session.created", session=self._state())
            while True:
                await self._obey(await self._socket.receive_text())
        except WebSocketDisconnect:
            pass
        except ApiError as error:
            with suppress(RuntimeError, WebSocketDisconnect):  # it has gone meanwhile
                await self._tell(error)
                await self._socket.close(1008, error.message[:100])
        finally:
            if self._speech is not None:
                self._speech.telling.cancel()
                self._speech.live.cancel()

    async def _obey(self, text: str) -> None:
        try:
            event = json_of(text)
            kind = event["type"]
        except (ValueError, TypeError, LookupError):
            await self._tell(ApiError(400, "expected a JSON object with a type"))
            return
        handlers = {
            "session.update": self._update,
            "transcription_session.update": self._update,
            "input_audio_buffer.append": self._append,
            "input_audio_buffer.commit": self._commit,
            "input_audio_buffer.clear": self._clear,
        }
        if not isinstance(kind, str) or kind not in handlers:
            known = ", ".join(handlers)
            await self._tell(ApiError(400, f"{str(kind)[:80]!r} is not known, expected {known}"))
            return
        try:
            await handlers[kind](event)
        except (WebSocketDisconnect, RuntimeError):
            raise
        except Exception as error:
            await self._tell(told(error), event.get("event_id"))

    async def _update(self, event: dict[str, Any]) -> None:
        if self._speech is not None:
            raise ApiError(400, "what is being said was begun with other settings: commit it first")
        session = _part(event, "session", _SESSION)
        # The first form of the interface had no levels within.
        within = _part(_part(session, "audio", {"input"}), "input", _INPUT)
        given = within.get("transcription") or session.get("input_audio_transcription")
        form = within.get("format") or session.get("input_audio_format") or "pcm16"
        if form not in ("pcm16", "audio/pcm") and form != {"type": "audio/pcm", "rate": RATE}:
            raise ApiError(400, f"the format is {form!r}, expected PCM of 16 bits at {RATE} Hz")
        if within.get("noise_reduction") or session.get("input_audio_noise_reduction"):
            raise ApiError(400, "noise is not reduced here: leave noise_reduction out")
        if session.get("type", "transcription") != "transcription" or session.get("include"):
            raise ApiError(400, "expected a session of type transcription that includes nothing")
        fields = checked(Transcription, _part({"transcription": given}, "transcription", _HEARING))
        fields.options(self._max_seconds)
        self._desk.find(fields.model or self._model)
        turns = _turns(within, session)
        self._fields, self._model = fields, fields.model or self._model
        self._in_pauses = turns is not None
        name = str(event["type"]).removesuffix("update") + "updated"
        await self._send(name, session=self._state())

    async def _append(self, event: dict[str, Any]) -> None:
        try:
            data = base64.b64decode(event.get("audio", ""), validate=True)
        except (binascii.Error, TypeError, ValueError) as error:
            raise ApiError(400, f"audio is not base64: {error}", param="audio") from error
        if self._speech is None:
            self._speech = await self._begin()
        speech = self._speech
        while speech.live.behind and not speech.telling.done():
            await asyncio.sleep(_BEHIND_SECONDS)
        speech.live.write(data)

    async def _commit(self, _event: dict[str, Any]) -> None:
        speech, self._speech = self._speech, None
        if speech is None:
            raise ApiError(
                400, "there is nothing to commit", code="input_audio_buffer_commit_empty"
            )
        speech.live.end()
        await self._send(
            "input_audio_buffer.committed", item_id=speech.item, previous_item_id=self._before
        )
        await speech.telling

    async def _clear(self, _event: dict[str, Any]) -> None:
        speech, self._speech = self._speech, None
        if speech is not None:
            speech.telling.cancel()
            speech.live.cancel()
        await self._send("input_audio_buffer.cleared")

    async def _begin(self) -> _Speech:
        options = self._fields.options(self._max_seconds)
        found: list[Live] = []

        def begin(model: Any) -> Any:
            found.append(Live(model, RATE, wait=False, options=options))
            return found[0].job

        name = self._desk.find(self._model)
        work = await self._desk.begin(name, begin)
        speech = _Speech(found[0], work, asyncio.current_task(), _new_item())  # type: ignore[arg-type]
        speech.telling = asyncio.create_task(self._tell_all(name, speech))
        return speech

    async def _tell_all(self, name: str, speech: _Speech) -> None:
        """Send what is final, and until then what is heard."""
        interims = asyncio.create_task(self._interims(speech))
        parts: list[Segment] = []
        try:
            async for segment in self._desk.segments(name, speech.work):
                parts.append(segment)
                if self._in_pauses:
                    await self._final(speech, parts)
                    parts = []
            if parts:
                await self._final(speech, parts)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            with suppress(RuntimeError, WebSocketDisconnect):  # the client has gone
                await self._tell(told(error))
        finally:
            interims.cancel()

    async def _final(self, speech: _Speech, parts: list[Segment]) -> None:
        text = " ".join(part.text.strip() for part in parts).strip()
        if not text and self._in_pauses:
            return
        item, speech.item = speech.item, _new_item()
        place = {"item_id": item, "content_index": 0}
        if text:
            await self._send(f"{_OF}.delta", **place, delta=text)
        usage = {"type": "duration", "seconds": ceil(parts[-1].end - parts[0].start)}
        times = {"start": parts[0].start, "end": parts[-1].end}
        await self._send(f"{_OF}.completed", **place, transcript=text, usage=usage, **times)
        self._before = item

    async def _interims(self, speech: _Speech) -> None:
        """At most half of the time is spent on them."""
        last = ""
        while True:
            started = time.monotonic()
            interim = await asyncio.to_thread(speech.live.interim)
            spent = time.monotonic() - started
            # What has become final meanwhile is told by that.
            current = interim and interim.finals == len(speech.live.job.finished)
            if interim and current and interim.text != last:
                last = interim.text
                place = {"item_id": speech.item, "content_index": 0}
                times = {"start": interim.start, "end": interim.end}
                await self._send(f"{_OF}.interim", **place, transcript=last, **times)
            await asyncio.sleep(max(_INTERIM_SECONDS, spent))

    async def _send(self, kind: str, **values: Any) -> None:
        event = {"type": kind, "event_id": "event_" + uuid4().hex, **values}
        await self._socket.send_text(json.dumps(event, ensure_ascii=False))

    async def _tell(self, error: ApiError, cause: str | None = None) -> None:
        await self._send("error", error={**error.body()["error"], "event_id": cause})

    def _state(self) -> dict[str, Any]:
        return {
            "id": self._name,
            "object": "realtime.transcription_session",
            "type": "transcription",
            "audio": {
                "input": {
                    "format": {"type": "audio/pcm", "rate": RATE},
                    "transcription": {
                        "model": self._desk.find(self._model),
                        "language": self._fields.language,
                        "prompt": self._fields.prompt or "",
                    },
                    "turn_detection": {"type": "server_vad"} if self._in_pauses else None,
                    "noise_reduction": None,
                }
            },
        }


def _part(whole: dict[str, Any], name: str, known: set[str]) -> dict[str, Any]:
    """A part of an event, empty where there is none.

    Raises:
        ApiError: it is no object, or has in it what is not known.
    """
    part = whole.get(name)
    if part is None:
        return {}
    if not isinstance(part, dict):
        raise ApiError(400, f"{name} is {brief(part)}, expected an object", param=name)
    for one in part:
        if one not in known:
            raise ApiError(
                400, f"{name} has {one[:80]!r}, expected some of {', '.join(sorted(known))}",
                param=name, code="unknown_field",
            )  # fmt: skip
    return part


def _turns(within: dict[str, Any], session: dict[str, Any]) -> dict[str, Any] | None:
    """What divides speech: pauses, or only commits where it is null.

    Raises:
        ApiError: it is none that is known, or has numbers of its own.
    """
    usual = {"type": "server_vad"}
    found: Any = within.get("turn_detection", session.get("turn_detection", usual))
    if found is not None and found != usual:
        raise ApiError(
            400, "turn_detection can be null or of type server_vad without numbers of its own",
            param="turn_detection",
        )  # fmt: skip
    return usual if found else None


def _new_item() -> str:
    return "item_" + uuid4().hex
