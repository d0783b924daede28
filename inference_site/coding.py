"""Compressed bodies: what comes is unpacked within bounds, what goes is packed if its client asks for just that."""

from __future__ import annotations

import asyncio
import logging
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Generic, TypeVar

from inference_site.lib.errors import ApiError, a_bug

logger = logging.getLogger(__name__)
T = TypeVar("T")

# What is larger, packed or unpacked, is dealt with in a thread.
AT_ONCE_BYTES = 64 * 1024
# A smaller answer is not worth it.
MIN_PACKED_BYTES = 1024
_CODINGS = {"gzip": "gzip", "x-gzip": "gzip", "deflate": "deflate", "identity": "", "": ""}


def read_coding(value: str) -> str:
    """The Content-Encoding of a request: gzip, deflate, or "" for none. Raises ApiError 415."""
    coding = _CODINGS.get(value.strip().lower())
    if coding is None:
        message = f"Content-Encoding is {value[:40]!r}; send gzip, deflate, or the body as it is"
        raise ApiError(415, "unsupported_encoding", message)
    return coding


def read_accepted(value: str) -> str:
    """The coding that a client asks for, if it accepts just one and no other: gzip or deflate; else ""."""
    return value if value in ("gzip", "deflate") else ""


class Unpacker:
    """Unpacks one body, within bounds. For one thread at a time."""

    def __init__(self, coding: str, body: bytes, limit: int) -> None:
        """limit: of the unpacked body, in bytes."""
        self._coding = coding
        self._limit = limit
        self._left: bytes = body
        if coding == "gzip":
            bits = 16 + zlib.MAX_WBITS
        else:  # what is meant is a zlib stream, which says so in its first two bytes; some clients send a bare one
            is_zlib = len(body) > 1 and body[0] & 15 == 8 and int.from_bytes(body[:2], "big") % 31 == 0
            bits = zlib.MAX_WBITS if is_zlib else -zlib.MAX_WBITS
        self._stream = zlib.decompressobj(bits)
        self._parts: list[bytes] = []
        self._size = 0

    def unpack(self, up_to: int | None = None) -> bytes | None:
        """The whole body; None if it is more than `up_to` bytes: to be called again without it.

        Raises ApiError 400 for what is no such stream, or not a whole one, 413 for what is over the limit.
        """
        stream = self._stream
        most = self._limit if up_to is None else min(up_to, self._limit)
        while not stream.eof and self._size <= most:
            try:
                part = stream.decompress(self._left, most + 1 - self._size)
            except zlib.error as error:
                raise self._wrong(f"can't be unpacked ({error})") from None
            self._left = stream.unconsumed_tail
            if not part and not stream.eof:
                raise self._wrong("ends too early")
            self._parts.append(part)
            self._size += len(part)
        if self._size > self._limit:
            message = f"the body is over {self._limit} bytes when unpacked; send less, or raise MAX_BODY_BYTES"
            raise ApiError(413, "body_too_large", message)
        if self._size > most:
            return None
        if stream.unused_data:
            raise self._wrong(f"goes on for {len(stream.unused_data)} bytes behind its end")
        return b"".join(self._parts)

    def _wrong(self, what: str) -> ApiError:
        message = f"the body {what}, its Content-Encoding is {self._coding}; send what the header says"
        return ApiError(400, "invalid_compression", message)


def pack(coding: str, body: bytes) -> bytes:
    """The body in this coding; quickly rather than tightly."""
    stream = zlib.compressobj(1, wbits=(16 if coding == "gzip" else 0) + zlib.MAX_WBITS)
    return stream.compress(body) + stream.flush()


class InThread(Generic[T]):
    """Work in a thread, whose result is handed over on the loop; a ticket (see exchange)."""

    def __init__(self, work: Callable[[], T], done: Callable[[T], None], failed: Callable[[ApiError], None]) -> None:
        """Exactly one of done and failed is called, unless it is cancelled."""
        self._done = done
        self._failed = failed
        self._cancelled = False
        future = asyncio.get_running_loop().run_in_executor(threads(), work)
        future.add_done_callback(self._over)

    def cancel(self) -> None:
        """Nobody waits for it any more."""
        self._cancelled = True

    def _over(self, future: asyncio.Future[T]) -> None:
        # Looked at, not raised: the traceback would lead back here, and keep the body until the garbage is collected.
        error = None if future.cancelled() else future.exception()
        if self._cancelled or future.cancelled():
            return
        if error is None:
            self._done(future.result())
        elif isinstance(error, ApiError):
            self._failed(error)
        else:
            logger.error("a body could not be packed or unpacked", exc_info=error)
            self._failed(a_bug())


@lru_cache(maxsize=1)
def threads() -> ThreadPoolExecutor:
    """Those in which large bodies are converted. Few: what is unpacked in them is not counted until it is done."""
    return ThreadPoolExecutor(2, thread_name_prefix="coding")
