"""The one shape of every error that a client may see."""

from __future__ import annotations

import msgspec

_encode = msgspec.json.encode


class ApiError(Exception):
    """A refusal: `status` for HTTP, `code` for programs, `message` names the value and the fix."""

    def __init__(self, status: int, code: str, message: str, *, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.retry_after_s = retry_after_s


def a_bug() -> ApiError:
    """What a client is told of an exception that nobody expected; the log has the traceback."""
    return ApiError(500, "internal_error", "a bug: the log of this process says more")


def error_body(message: str, code: str, request_id: str | None = None) -> bytes:
    """`{"error", "code"}` as JSON, with the request's id if it is known."""
    body = {"error": message, "code": code}
    if request_id is not None:
        body["request_id"] = request_id
    return _encode(body)
