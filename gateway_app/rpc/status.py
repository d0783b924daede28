"""This system's errors and reply headers, as gRPC has them: status codes and trailing metadata."""

from __future__ import annotations

from functools import lru_cache

import grpc

from inference_site.lib.errors import ApiError

Metadata = tuple[tuple[str, str], ...]

_CODES = {
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    501: grpc.StatusCode.UNIMPLEMENTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}


class Refused(Exception):
    """An error that comes with the header lines of who answered so."""

    def __init__(self, error: ApiError, headers: bytes) -> None:
        super().__init__(error.message)
        self.error = error
        self.headers = headers


def code_of(error: ApiError) -> grpc.StatusCode:
    """The gRPC status of an HTTP one."""
    usual = grpc.StatusCode.INVALID_ARGUMENT if error.status < 500 else grpc.StatusCode.INTERNAL
    return _CODES.get(error.status, usual)


def trailers_of(error: ApiError, headers: bytes) -> Metadata:
    """What an error says beside its sentence: its code for programs, and when to try again."""
    known = metadata_of(headers)
    if error.retry_after_s is not None and not any(name == "retry-after" for name, _ in known):
        known = (*known, ("retry-after", str(error.retry_after_s)))
    return (*known, ("x-error-code", error.code))


def metadata_of(headers: bytes) -> Metadata:
    """Header lines as metadata; there are few different ones, but for X-Explain."""
    return _split(headers) if b"x-explain: " in headers else _known(headers)


@lru_cache(maxsize=4096)
def _known(headers: bytes) -> Metadata:
    return _split(headers)


def _split(headers: bytes) -> Metadata:
    pairs = (line.split(": ", 1) for line in headers.decode("latin-1").splitlines())
    return tuple((name.lower(), value) for name, value in pairs)
