"""The service on a socket, until it is told to end."""

from __future__ import annotations

import asyncio
import ctypes
import socket
import struct
import sys
import time
import warnings
from collections.abc import Callable
from types import FrameType

import uvicorn
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from granite_gguf.errors import AudioWarning, InputError
from granite_gguf.memory import share_heaps
from granite_gguf.serve.faults import ApiError

_TAKING_SECONDS = 0.05  # several turns of the loop, each of which accepts all that wait
_GRACE_SECONDS = 1.0  # for who has connected and is about to ask
_LEAVING_SECONDS = 1.0
_SO_ATTACH_FILTER = 26  # of Linux; a return is the whole program of the filter
_BPF_RET = 0x06


def prepare_process() -> None:
    """Make of this process one that serves: its threads share memory, and it logs no text.

    What is to be said of a recording is said to its client, as ``remarks``.
    """
    share_heaps()
    warnings.simplefilter("ignore", AudioWarning)


def listening(host: str, port: int) -> socket.socket:
    """A socket that takes connections; port 0 is any that is free.

    Raises:
        InputError: the address cannot be had.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise InputError(
            f"cannot listen on {host} port {port}: {error.strerror or error}; choose another one"
        ) from error


class _Server(uvicorn.Server):
    """Answers, at the end, everybody whose connection the system had taken until then."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for listener in sockets or []:
            complete_no_more(listener)
        await asyncio.sleep(_TAKING_SECONDS)
        for server in self.servers:
            server.close()
        end = time.monotonic() + _GRACE_SECONDS
        while (silent := self._silent()) and time.monotonic() < end and not self.force_exit:
            await asyncio.sleep(_TAKING_SECONDS)
        leaving = [_Leaving(connection) for connection in silent]
        self.server_state.connections.difference_update(silent)
        await super().shutdown(sockets)
        if self.force_exit:  # which uvicorn leaves to the end of the loop
            for task in self.server_state.tasks:
                task.cancel()
            await self.lifespan.shutdown()
        for one in leaving:
            await one.gone.wait()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.force_exit = self.should_exit
        super().handle_exit(sig, frame)

    def _silent(self) -> list[H11Protocol]:
        """Connections on which nobody waits for an answer."""
        return [
            one
            for one in self.server_state.connections
            if isinstance(one, H11Protocol) and (one.cycle is None or one.cycle.response_complete)
        ]


class _Leaving(asyncio.Protocol):
    """Tells on a connection that nothing is answered any more, whether or not anything was asked.

    A connection that is closed while a request is on its way is reset, and its client never knows
    what became of that. So the answer is there first, and what still comes is read and dropped.
    """

    def __init__(self, connection: H11Protocol) -> None:
        self.gone = asyncio.Event()
        self._connection, transport = connection, connection.transport
        transport.set_protocol(self)
        transport.resume_reading()
        transport.write(_farewell())
        transport.write_eof()
        self._ending = asyncio.get_running_loop().call_later(_LEAVING_SECONDS, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._ending.cancel()
        self._connection.connection_lost(exc)
        self.gone.set()


def _farewell() -> bytes:
    """The answer as it goes over the wire."""
    answer = _ending()
    headers = [*answer.raw_headers, (b"connection", b"close")]
    lines = [b"HTTP/1.1 503 Service Unavailable", *map(b": ".join, headers), b"", answer.body]
    return b"\r\n".join(lines)


def _ending() -> JSONResponse:
    return ApiError(503, "this server is ending", code="ending").response()


def complete_no_more(listener: socket.socket) -> None:
    """Let the system take no further connection, and keep those that are still to be accepted.

    A listener that is closed resets these. Only Linux can be told so, by a filter that keeps
    nothing of any packet; elsewhere who connects in the last moment may be reset.
    """
    if sys.platform == "linux":
        keep_nothing = ctypes.create_string_buffer(struct.pack("HBBI", _BPF_RET, 0, 0, 0))
        program = struct.pack("HP", 1, ctypes.addressof(keep_nothing))
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)


def _closing(app: ASGIApp, ending: Callable[[], bool]) -> ASGIApp:
    """An application after whose answers no other request follows, once it is ending."""

    async def closing(scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def sending(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start" and ending():
                headers = [*message.get("headers", ()), (b"connection", b"close")]
                message = {**message, "headers": headers}
            started = True
            await send(message)

        try:
            await app(scope, receive, sending)
        except asyncio.CancelledError:  # by a second signal, or when the deadline is over
            if started or scope["type"] != "http" or not ending():
                raise
            await _ending()(scope, receive, sending)

    return closing


def run(app: ASGIApp, listener: socket.socket, *, deadline: float, requests: bool) -> None:
    """Answer until SIGINT or SIGTERM, then what was accepted, and return.

    Accepted is every connection that the system completes before it takes no more: a request whose
    head is there a second later is answered as ever, and any other one by a 503.

    Args:
        app: answers.
        listener: takes connections.
        deadline: seconds that answers may take, then at most.
        requests: whether each request is logged, by its path and status.
    """
    config = uvicorn.Config(
        _closing(app, lambda: server.should_exit), log_config=None, access_log=requests,
        server_header=False, lifespan="on", http="h11",
        timeout_graceful_shutdown=max(1, round(deadline)),
    )  # fmt: skip
    server = _Server(config)
    prepare_process()
    try:
        server.run(sockets=[listener])
    except (SystemExit, KeyboardInterrupt):
        # The signal that ended it, raised once more when all was answered.
        if not server.started:
            raise
