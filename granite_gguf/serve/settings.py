"""What a service allows."""

from __future__ import annotations

from dataclasses import dataclass

KEY_VARIABLE = "GRANITE_GGUF_API_KEY"
LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True)
class Settings:
    """Limits, and who may ask.

    Attributes:
        key: what a client must send as ``Authorization: Bearer KEY``; None asks for nothing.
        max_megabytes: the largest request.
        max_seconds: the longest recording, decoded.
        uploads: requests that may be sending at a time.
        queue: recordings that may wait or be at work at a time, in all.
        deadline: seconds from a request's first byte, after which it is given up.
        hosts: names in the address that a client asks for, any port; None allows all.
    """

    key: str | None = None
    max_megabytes: float = 100.0
    max_seconds: float = 4 * 3600.0
    uploads: int = 16
    queue: int = 64
    deadline: float = 600.0
    hosts: tuple[str, ...] | None = LOOPBACK
