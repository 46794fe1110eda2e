"""Errors as OpenAI's clients expect them: ``{"error": {message, type, param, code}}``."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from starlette.responses import JSONResponse

from granite_gguf.errors import (
    AudioError,
    BusyError,
    CancelledError,
    DeadlineError,
    HubError,
    InputError,
    MissingExtraError,
    ModelFileError,
    TooLongError,
)

RETRY_SECONDS = 2
_log = logging.getLogger(__name__)


class ApiError(Exception):
    """What a client is told.

    Args:
        status: of HTTP.
        message: for a person.
        param: the field that is to blame.
        code: for a program.
        retry: whether the same request may succeed later; None where its status tells.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers: dict[str, str] = {}
        if status in (429, 503) and retry is not False:
            self.headers["Retry-After"] = str(RETRY_SECONDS)
        if retry is False:
            self.headers["X-Should-Retry"] = "false"  # which OpenAI's clients obey
        if status == 401:
            self.headers["WWW-Authenticate"] = "Bearer"

    def body(self) -> dict[str, Any]:
        """The object that tells of it."""
        kinds = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {
            "error": {
                "message": self.message,
                "type": kinds.get(self.status, kind),
                "param": self.param,
                "code": self.code,
            }
        }

    def response(self) -> JSONResponse:
        """The answer that tells of it."""
        return JSONResponse(self.body(), self.status, self.headers)


_CLIENTS: tuple[tuple[type[Exception], Callable[[str], ApiError]], ...] = (
    (TooLongError, lambda m: ApiError(413, m, param="file", code="audio_too_long")),
    (AudioError, lambda m: ApiError(400, m, param="file", code="invalid_audio")),
    (BusyError, lambda m: ApiError(429, m, code="queue_full")),
    # Sent again, it would take as long again.
    (DeadlineError, lambda m: ApiError(504, m, code="deadline_exceeded", retry=False)),
    (CancelledError, lambda m: ApiError(499, m, code="cancelled", retry=False)),
    (InputError, lambda m: ApiError(400, m)),
    (MissingExtraError, lambda m: ApiError(400, m, code="unsupported_value")),
)
"""What is a client's own to mend, and how it is told; the first that fits."""

_NO_MEMORY = "there is not enough memory for this now"
_UNUSABLE = "the model cannot be loaded; the server's log tells why"
_SERVERS: tuple[tuple[type[Exception], Callable[[], ApiError]], ...] = (
    (MemoryError, lambda: ApiError(503, _NO_MEMORY, code="out_of_memory")),
    (ModelFileError, lambda: ApiError(500, _UNUSABLE, code="model_unusable")),
    (HubError, lambda: ApiError(500, _UNUSABLE, code="model_unusable")),
)
"""What is the server's, whose words are for its log."""


def told(error: Exception) -> ApiError:
    """What a client is told of an error. What is not its own fault goes to the log, too."""
    if isinstance(error, ApiError):
        return error
    for kind, tell in _CLIENTS:
        if isinstance(error, kind):
            return tell(str(error))
    for kind, make in _SERVERS:
        if isinstance(error, kind):
            _log.error("%s", error)
            return make()
    _log.error("a fault", exc_info=error)
    return ApiError(500, "a fault of the server; its log tells more", code="internal_error")
