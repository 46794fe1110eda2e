"""What stands before everything else: who may ask, how much may come in, and what is counted.

A plain ASGI application around another one, so that a request is refused before its body is read.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from granite_gguf.serve.faults import ApiError
from granite_gguf.serve.metrics import Metrics
from granite_gguf.serve.settings import Settings

OPEN = frozenset({"/", "/health", "/ready", "/docs", "/openapi.json"})
"""Paths that need no key: they tell nothing of anybody's recordings."""

_PAGE = "/page/"
_DISCARDED = 64 << 20  # bytes of a refused body that are still read
_DISCARDING_SECONDS = 5.0


class Guard:
    """Refuses what may not be asked, and counts what is.

    Args:
        app: answers the rest.
        settings: what is allowed.
        metrics: counts.
    """

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics) -> None:
        self._app, self._settings, self._metrics = app, settings, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        refused = None
        try:
            self._check(scope)
        except ApiError as error:
            refused = error
        if scope["type"] == "websocket":
            if refused is None:
                await self._app(scope, receive, send)
            else:
                await send({"type": "websocket.close", "code": 1008, "reason": refused.message})
            return
        await self._answer(scope, receive, send, refused)

    async def _answer(
        self, scope: Scope, receive: Receive, send: Send, refused: ApiError | None
    ) -> None:
        body = _Body(receive, round(self._settings.max_megabytes * 1e6))
        expects = "expect" in Headers(scope=scope)  # and sends nothing before it is asked to
        status, started = 500, time.monotonic()

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if status >= 400 and not body.ended and not expects:
                    await body.discard()
            await send(message)

        self._metrics.in_flight.inc()
        try:
            if refused is None:
                await self._app(scope, body.receive, sending)
            else:
                await refused.response()(scope, body.receive, sending)
        finally:
            self._metrics.in_flight.dec()
            # The pattern and not the path, of which there are endless ones.
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.requests.labels(route, str(status)).inc()
            self._metrics.seconds.labels(route).observe(time.monotonic() - started)

    def _check(self, scope: Scope) -> None:
        headers, settings = Headers(scope=scope), self._settings
        host = headers.get("host", "")
        # A page of another site may send a form here, or have its own name point here.
        if settings.hosts is not None and _name(f"//{host}") not in settings.hosts:
            raise ApiError(403, f"this server is not {host!r}", code="wrong_host", retry=False)
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            raise ApiError(403, "pages of other sites may not ask", code="wrong_origin")
        path: str = scope["path"]
        if settings.key is not None and path not in OPEN and not path.startswith(_PAGE):
            self._check_key(headers, settings.key)
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > settings.max_megabytes * 1e6:
            raise too_large(settings.max_megabytes)

    def _check_key(self, headers: Headers, key: str) -> None:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        # A browser's WebSocket can send no header but this one.
        offered = headers.get("sec-websocket-protocol", "").split(",")
        keys = [name.strip().removeprefix(KEY_PROTOCOL) for name in offered]
        if scheme.lower() == "bearer":
            keys.append(given.strip())
        if not any(hmac.compare_digest(one.encode(), key.encode()) for one in keys if one):
            raise ApiError(
                401, "an API key is needed: send it as 'Authorization: Bearer KEY'",
                code="invalid_api_key",
            )  # fmt: skip


KEY_PROTOCOL = "openai-insecure-api-key."
"""Begins the subprotocol by which OpenAI's clients in a browser send a key."""


def too_large(megabytes: float) -> ApiError:
    """What is told of a request beyond the limit."""
    return ApiError(
        413, f"the request is larger than {megabytes:g} MB, the most allowed",
        param="file", code="file_too_large",
    )  # fmt: skip


class _Body:
    """What a client sends, counted."""

    def __init__(self, receive: Receive, most: int) -> None:
        self._receive, self._most, self._count = receive, most, 0
        self.ended = False

    async def receive(self) -> Message:
        message = await self._next()
        if self._count > self._most:
            raise too_large(self._most / 1e6)
        return message

    async def discard(self) -> None:
        """Read on for a while: who is cut off while sending may never see the answer."""
        end = self._count + _DISCARDED
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._read_to(end), _DISCARDING_SECONDS)

    async def _read_to(self, end: int) -> None:
        while not self.ended and self._count < end:
            await self._next()

    async def _next(self) -> Message:
        message: dict[str, Any] = dict(await self._receive())
        if message["type"] == "http.request":
            self._count += len(message.get("body", b""))
            self.ended = not message.get("more_body", False)
        else:
            self.ended = True
        return message


def _name(address: str) -> str | None:
    try:
        return urlsplit(address).hostname
    except ValueError:
        return None
