"""What goes wrong with the Hub, in one line for a person."""

from __future__ import annotations

from huggingface_hub import errors
from huggingface_hub.constants import ENDPOINT
from huggingface_hub.errors import HfHubHTTPError

# The base of every error of the Hub's HTTP client, whichever client that is.
HTTP_ERROR: type[BaseException] = HfHubHTTPError.__mro__[1]

FAULTS = (HTTP_ERROR, errors.HFValidationError, errors.EntryNotFoundError, OSError)
"""Every error that a call of huggingface_hub may end in."""

_LOGIN = "log in with `hf auth login` or set HF_TOKEN"
_ANSWERS: tuple[tuple[type[BaseException], str], ...] = (
    (errors.OfflineModeIsEnabled, "is not in the cache, and HF_HUB_OFFLINE forbids to ask the Hub"),
    (
        errors.GatedRepoError,
        f"is gated: accept its conditions on its page of the Hub, then {_LOGIN}",
    ),
    (
        errors.RepositoryNotFoundError,
        f"the Hub has no such repository, or it is private: check the name, or {_LOGIN}",
    ),
    (errors.RevisionNotFoundError, "has no revision {revision!r} on the Hub"),
    (errors.LocalEntryNotFoundError, "is not in the cache, and the Hub cannot be reached"),
    (
        errors.FileMetadataError,
        f"{ENDPOINT} does not answer like a Hub: check HF_ENDPOINT, proxies, and whether the "
        "network has a login page",
    ),
    (errors.EntryNotFoundError, "has no such file on the Hub"),
    (errors.HFValidationError, "is no repository id, which is like owner/name"),
)
_STATUS = {
    401: f"the Hub refuses access (HTTP 401): {_LOGIN}",
    403: f"the Hub refuses access (HTTP 403): {_LOGIN}",
    404: "is not on the Hub (HTTP 404)",
    429: "the Hub asks for fewer requests (HTTP 429): wait a while, then run again",
}


def is_passing(error: BaseException) -> bool:
    """Whether the same request may succeed later: no network, or the Hub is overloaded."""
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code >= 500 or error.response.status_code == 429
    return isinstance(error, (HTTP_ERROR, errors.OfflineModeIsEnabled))


def explain(error: BaseException, revision: str | None = None) -> str:
    """Why a request failed, as the end of a sentence that starts with what was wanted.

    >>> explain(errors.OfflineModeIsEnabled("..."))
    'is not in the cache, and HF_HUB_OFFLINE forbids to ask the Hub'
    """
    cause = error.__cause__
    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(cause, HTTP_ERROR):
        return f"{explain(cause, revision)}, and it is not in the cache"
    for kind, answer in _ANSWERS:
        if isinstance(error, kind):
            return answer.format(revision=revision)
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        later = ": run again later" if status >= 500 else ""
        return _STATUS.get(status, f"the Hub answers HTTP {status}{later}")
    text = " ".join(str(error).split()) or type(error).__name__
    reached = "the Hub cannot be reached" if isinstance(error, HTTP_ERROR) else None
    return f"{reached or 'cannot be fetched from the Hub'}: {text}"
