"""How errors look over HTTP: a status, `{"error": sentence, "code": …, "reason": …}`, and when to try again."""

from __future__ import annotations

import math

from aiohttp import web

from inferd.errors import InferdError, RequestError

# By code; those of a reason below.
STATUS = {
    "INVALID_ARGUMENT": 400,
    "UNAUTHENTICATED": 401,
    "NOT_FOUND": 404,
    "RESOURCE_EXHAUSTED": 429,
    "CANCELLED": 499,  # nobody reads it: the caller is gone
    "INTERNAL": 500,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}
STATUS_OF_REASON = {
    "SUPERSEDED": 409,
    "PAYLOAD_TOO_LARGE": 413,
    "OUTPUT_TOO_LARGE": 500,  # what cannot succeed later must not say that it can
}


def failure(error: InferdError) -> web.Response:
    """The answer for an error of the daemon's, or of ours on its behalf."""
    if not isinstance(error, RequestError):
        return problem(502, str(error))
    status = STATUS_OF_REASON.get(error.reason) or STATUS.get(error.code, 500)
    headers = {}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if status in (429, 503):
        # In whole seconds, as HTTP has it.
        headers["Retry-After"] = str(max(1, math.ceil((error.retry_after_ms or 0) / 1000)))
    return problem(status, error.message, headers, code=error.code, reason=error.reason)


def problem(status: int, sentence: str, headers: dict[str, str] | None = None, **more: str) -> web.Response:
    """An answer that says what went wrong."""
    return web.json_response({"error": sentence, **more}, status=status, headers=headers)
