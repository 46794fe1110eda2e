"""Takes recordings, and hands back what is said in them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from fastapi import Request
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect
from starlette.responses import Response, StreamingResponse

from granite_gguf.errors import OutOfMemoryError
from granite_gguf.model import Model
from granite_gguf.serve.answers import answer, events
from granite_gguf.serve.faults import ApiError
from granite_gguf.serve.form import Fields, Transcription, read
from granite_gguf.serve.metrics import Metrics
from granite_gguf.serve.models import Models
from granite_gguf.serve.settings import Settings
from granite_gguf.serve.work import Work
from granite_gguf.transcript import Segment
from granite_gguf.transcription.jobs import Job

_MOST_FIELDS = 64
NOTE_HEADER = "Granite-Note"


async def _nothing() -> None:
    """Nothing is to be closed."""


class Desk:
    """Answers requests with a recording in them. Belongs to one event loop.

    Args:
        models: transcribe.
        settings: what is allowed.
        metrics: counts.
        progress: is called when a segment is finished.
    """

    def __init__(
        self, models: Models, settings: Settings, metrics: Metrics, progress: Callable[[], None]
    ) -> None:
        self._models, self._settings, self._metrics = models, settings, metrics
        self._progress = progress
        self._uploading = 0
        self._at_work = 0
        self._closing: set[asyncio.Future[None]] = set()

    async def serve(self, request: Request, kind: type[Fields]) -> Response:
        """Read a form, transcribe its file, and answer.

        Raises:
            ApiError: the request asks for what cannot be.
            GraniteError: the recording cannot be transcribed.
        """
        end = time.monotonic() + self._settings.deadline
        with self._upload():
            form = await self._form(request)
        try:
            fields = read(kind, form.multi_items())
            name = self.find(getattr(fields, "model", None))
            options = fields.options(self._settings.max_seconds)
            source = await _source(form)

            def submit(model: Model) -> Job:
                left = max(0.001, end - time.monotonic())
                return model.submit(source, wait=False, deadline=left, **options)

            work = await self.begin(name, submit, form.close)
        except BaseException:
            await form.close()
            raise
        watch = asyncio.ensure_future(_gone(request))
        watch.add_done_callback(lambda task: None if task.cancelled() else work.cancel())
        try:
            response = await self._answer(fields, name, work)
        except BaseException:
            work.cancel()
            raise
        finally:
            watch.cancel()
        # A header is of Latin letters, and these are our own words.
        if notes := fields.notes():
            response.headers[NOTE_HEADER] = "; ".join(notes)
        return response

    def find(self, name: str | None) -> str:
        """The model of a name, see :meth:`Models.find`."""
        return self._models.find(name)

    async def begin(
        self,
        name: str,
        submit: Callable[[Model], Job],
        close: Callable[[], Awaitable[None]] = _nothing,
    ) -> Work:
        """Hand over a recording.

        Args:
            name: the model.
            submit: hands it to the model, without waiting for room.
            close: is called when the recording is needed no more, unless this fails.

        Raises:
            ApiError: the queue is full.
            GraniteError: the model cannot be loaded, or does not take it.
        """
        self._check_room()
        self._count(1)
        try:
            model = await self._models.take(name)
        except BaseException:
            self._count(-1)
            raise

        def ended() -> None:
            self._models.give_back(name)
            self._count(-1)
            task = asyncio.ensure_future(close())
            self._closing.add(task)  # the loop itself would not hold it
            task.add_done_callback(self._closing.discard)

        try:
            job = submit(model)
        except BaseException:
            self._models.give_back(name)
            self._count(-1)
            raise
        return Work(job, ended)

    async def segments(self, name: str, work: Work) -> AsyncIterator[Segment]:
        """Those of a recording at work, counted."""
        try:
            async for segment in work.segments():
                self._progress()
                self._metrics.count(name, segment)
                yield segment
        except OutOfMemoryError:
            # Whoever tries again finds more room.
            await self._models.free()
            raise

    async def _answer(self, fields: Fields, name: str, work: Work) -> Response:
        segments = self.segments(name, work)
        if isinstance(fields, Transcription) and fields.stream:
            # What goes wrong before the first segment has a status of its own.
            first = await anext(segments, None)
            return StreamingResponse(
                _streamed(fields, first, segments, work), media_type="text/event-stream",
                headers={"Cache-Control": "no-store"},
            )  # fmt: skip
        async for _ in segments:
            pass
        return answer(fields, await work.result())

    def _check_room(self) -> None:
        if self._at_work >= self._settings.queue:
            raise ApiError(
                429, f"{self._at_work} recordings are waiting or at work", code="queue_full"
            )

    def _count(self, change: int) -> None:
        self._at_work += change
        self._metrics.at_work.set(self._at_work)

    @contextmanager
    def _upload(self) -> Iterator[None]:
        if self._uploading >= self._settings.uploads:
            raise ApiError(429, "too many requests are being sent", code="too_many_uploads")
        self._check_room()  # before its body is read
        self._uploading += 1
        try:
            yield
        finally:
            self._uploading -= 1

    async def _form(self, request: Request) -> FormData:
        """The parts of a form; a file of more than a megabyte lies on disk, without a name."""
        kind = request.headers.get("content-type", "")
        if not kind.startswith("multipart/form-data"):
            raise ApiError(415, f"the content type is {kind[:80]!r}, expected multipart/form-data")
        parsing = _parse(request)
        try:
            return await asyncio.wait_for(parsing, self._settings.deadline)
        except asyncio.TimeoutError:
            raise ApiError(
                408, f"the request was not there after {self._settings.deadline:g} s", retry=False
            ) from None
        except ClientDisconnect:
            raise ApiError(499, "the client has gone") from None
        except (MultiPartException, HTTPException) as error:
            reason = getattr(error, "message", None) or getattr(error, "detail", "")
            raise ApiError(400, f"the form cannot be read: {reason}") from None


async def _parse(request: Request) -> FormData:
    return await request.form(max_files=1, max_fields=_MOST_FIELDS)


async def _source(form: FormData) -> Any:
    file = form.get("file")
    if not isinstance(file, UploadFile):
        what = "is a text" if file else "is missing"
        raise ApiError(400, f"file {what}, expected a recording", param="file")
    # In Python 3.10 a spooled file does not tell whether it can seek.
    return file.file if hasattr(file.file, "seekable") else await file.read()


async def _gone(request: Request) -> None:
    """Wait until the client has hung up."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _streamed(
    fields: Fields, first: Segment | None, rest: AsyncIterator[Segment], work: Work
) -> AsyncIterator[str]:
    async def all_of_them() -> AsyncIterator[Segment]:
        if first is not None:
            yield first
        async for segment in rest:
            yield segment

    try:
        async for event in events(fields, all_of_them()):
            yield event
    finally:
        work.cancel()  # it is over, or nobody listens any more
