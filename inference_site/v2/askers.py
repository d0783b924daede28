"""Who waits for what a plane does for a V2 request, and writes its answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from functools import partial
from typing import Any, ClassVar

from inference_site import coding
from inference_site.exchange import Answer, Ticket
from inference_site.lib.catalog import ModelInfo
from inference_site.lib.errors import ApiError, a_bug, error_body
from inference_site.v2.reply import encode_reply

logger = logging.getLogger(__name__)


class WrongVerb(ApiError):
    """405."""

    def __init__(self, method: str, path: str, verb: str) -> None:
        super().__init__(405, "method_not_allowed", f"{method} is not for {path}; use {verb}")
        self.verb = verb


def refuse(answer: Answer, error: ApiError, ident: str | None = None, headers: bytes = b"") -> None:
    """Answers with what is wrong; `headers` say how it was found."""
    if isinstance(error, WrongVerb):
        headers += b"allow: %b\r\n" % error.verb.encode()
    if error.retry_after_s is not None and b"retry-after" not in headers:
        headers += b"retry-after: %d\r\n" % error.retry_after_s
    if error.status == 415:
        headers += b"accept-encoding: gzip, deflate\r\n"
    answer(error.status, headers, error_body(error.message, error.code, ident))


class InferAsker:
    """Writes an inference's answer; an exchange.Asker."""

    __slots__ = ("_answer", "_ident", "_info")

    def __init__(self, answer: Answer, info: ModelInfo, ident: str | None) -> None:
        self._answer = answer
        self._info = info
        self._ident = ident

    def answered_by(self, info: ModelInfo, /) -> None:
        """Another version answers than the one that was found."""
        self._info = info

    def on_output(self, output: bytes, node_json: bytes, cached: bool, time_us: int, headers: bytes, /) -> None:
        """The plane's answer."""
        lines, body = encode_reply(output, self._info.name, self._info.version, self._ident)
        self._answer(200, lines + headers, body)

    def on_error(self, error: ApiError, headers: bytes, /) -> None:
        """Why there is none."""
        refuse(self._answer, error, self._ident, headers)


class Packing:
    """Compresses an answer that is worth it; large ones in a thread. An exchange.Ticket."""

    def __init__(self, answer: Answer, accepts: str) -> None:
        """accepts: the coding, see coding."""
        self._answer = answer
        self._accepts = accepts
        self._ticket: Ticket | None = None
        self._answered = False  # by the plane

    def follow(self, ticket: Ticket | None) -> Ticket | None:
        """What the plane has given for the request; what is to be cancelled if its client leaves."""
        if not self._answered:
            self._ticket = ticket
        return None if self._ticket is None else self

    def cancel(self) -> None:
        """The client has left."""
        if self._ticket is not None:
            self._ticket.cancel()

    def answer(self, status: int, headers: bytes, body: bytes) -> None:
        """The plane has answered."""
        self._answered = True
        self._ticket = None
        # A refusal is read as it is even by clients that ask for this.
        if status != 200 or len(body) < coding.MIN_PACKED_BYTES:
            self._answer(status, headers, body)
        elif len(body) <= coding.AT_ONCE_BYTES:
            self._send(headers, coding.pack(self._accepts, body))
        else:
            work = partial(coding.pack, self._accepts, body)
            self._ticket = coding.InThread(work, partial(self._send, headers), partial(refuse, self._answer))

    def _send(self, headers: bytes, packed: bytes) -> None:
        self._answer(200, b"%bcontent-encoding: %b\r\n" % (headers, self._accepts.encode()), packed)


class Change:
    """A change of the models that are loaded, which goes on if its client leaves. An exchange.Ticket."""

    _running: ClassVar[set[asyncio.Task[None]]] = set()

    def __init__(self, answer: Answer, work: Coroutine[Any, Any, None]) -> None:
        self._answer: Answer | None = answer
        task = asyncio.get_running_loop().create_task(self._run(work))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    def cancel(self) -> None:
        """The client has left."""
        self._answer = None

    async def _run(self, work: Coroutine[Any, Any, None]) -> None:
        error = None
        try:
            await work
        except ApiError as refusal:
            error = refusal
        except Exception:
            logger.exception("the models could not be changed")
            error = a_bug()
        if self._answer is None:
            return
        if error is None:
            self._answer(200, b"", b"{}")
        else:
            refuse(self._answer, error)
