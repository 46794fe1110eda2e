"""The service on a socket, until it is told to end."""

from __future__ import annotations

import asyncio
import socket

import uvicorn
from starlette.types import ASGIApp

from granite_gguf.errors import InputError

_GRACE_SECONDS = 0.25


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
    """Answers, at the end, also who has just connected and is still about to ask."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        await asyncio.sleep(_GRACE_SECONDS)
        await super().shutdown(sockets)


def run(app: ASGIApp, listener: socket.socket, *, deadline: float, requests: bool) -> None:
    """Answer until SIGINT or SIGTERM, then what was accepted, and return.

    Args:
        app: answers.
        listener: takes connections.
        deadline: seconds that answers may take, then at most.
        requests: whether each request is logged, by its path and status.
    """
    config = uvicorn.Config(
        app, log_config=None, access_log=requests, server_header=False, lifespan="on",
        timeout_graceful_shutdown=max(1, round(deadline)),
    )  # fmt: skip
    server = _Server(config)
    try:
        server.run(sockets=[listener])
    except (SystemExit, KeyboardInterrupt):
        # The signal that ended it, raised once more when all was answered.
        if not server.started:
            raise
