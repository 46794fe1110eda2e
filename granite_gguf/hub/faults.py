"""What goes wrong with the Hub, in one line for a person."""

from __future__ import annotations

from huggingface_hub.constants import ENDPOINT
from huggingface_hub.errors import (
    EntryNotFoundError,
    FileMetadataError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

# The base of every error of the Hub's HTTP client, whichever client that is.
HTTP_ERROR: type[BaseException] = HfHubHTTPError.__mro__[1]

FAULTS = (HTTP_ERROR, HFValidationError, EntryNotFoundError, OSError)
"""Every error that a call of huggingface_hub may end in."""

_LOGIN = "log in with `hf auth login` or set HF_TOKEN"
_TOO_MANY_REQUESTS = 429


def is_passing(error: BaseException) -> bool:
    """Whether the same request may succeed later: no network, or the Hub is overloaded."""
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        return status >= 500 or status == _TOO_MANY_REQUESTS
    return isinstance(error, (HTTP_ERROR, OfflineModeIsEnabled))


def explain(error: BaseException, revision: str | None = None) -> str:
    """Why a request failed, as the end of a sentence that starts with what was wanted.

    >>> explain(OfflineModeIsEnabled("..."))
    'is not in the cache, and HF_HUB_OFFLINE forbids to ask the Hub'
    """
    answers: tuple[tuple[type[BaseException], str], ...] = (
        (OfflineModeIsEnabled, "is not in the cache, and HF_HUB_OFFLINE forbids to ask the Hub"),
        (
            GatedRepoError,
            f"is gated: accept its conditions on its page of the Hub, then {_LOGIN}",
        ),
        (
            RepositoryNotFoundError,
            f"the Hub has no such repository, or it is private: check the name, or {_LOGIN}",
        ),
        (RevisionNotFoundError, f"has no revision {revision!r} on the Hub"),
        (LocalEntryNotFoundError, "is not in the cache, and the Hub cannot be reached"),
        (
            FileMetadataError,
            f"{ENDPOINT} does not answer like a Hub: check HF_ENDPOINT, proxies, and whether the "
            "network has a login page",
        ),
        (EntryNotFoundError, "has no such file on the Hub"),
        (HFValidationError, "is no repository id, which is like owner/name"),
    )
    if isinstance(error, LocalEntryNotFoundError) and isinstance(error.__cause__, HTTP_ERROR):
        return f"{explain(error.__cause__, revision)}, and it is not in the cache"
    for kind, answer in answers:
        if isinstance(error, kind):
            return answer
    if isinstance(error, HfHubHTTPError):
        return _explain_status(error.response.status_code)
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, HTTP_ERROR):
        return f"the Hub cannot be reached: {text}"
    return f"cannot be fetched from the Hub: {text}"


def _explain_status(status: int) -> str:
    if status in (401, 403):
        return f"the Hub refuses access (HTTP {status}): {_LOGIN}"
    if status == 404:
        return "is not on the Hub (HTTP 404)"
    if status == _TOO_MANY_REQUESTS:
        return "the Hub asks for fewer requests (HTTP 429): wait a while, then run again"
    later = ": run again later" if status >= 500 else ""
    return f"the Hub answers HTTP {status}{later}"
