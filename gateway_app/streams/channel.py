"""One WebSocket to a worker: requests out, answers in, what is ready together in one message."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Protocol

import msgspec
from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

from gateway_app.core.call import Call
from gateway_app.infercall import Refusal
from gateway_app.streams.vitals import Vitals
from inference_site.lib import frames, handshake
from inference_site.lib.catalog import Models
from inference_site.lib.errors import ApiError
from inference_site.lib.frames import Ask, Cache, Tell
from inference_site.lib.trace import Detail

logger = logging.getLogger(__name__)

_pack = frames.pack_ask_head
_check_of = frames.check_of
_INFER, _FIRST = int(Ask.INFER), int(Ask.FIRST)
_EXPLAIN, _EXPLAIN_FIRST = int(Ask.EXPLAIN), int(Ask.EXPLAIN_FIRST)
_RESULT, _REFUSED, _FAILED, _GONE = map(int, (Tell.RESULT, Tell.REFUSED, Tell.FAILED, Tell.GONE))
_HELLO = int(Tell.HELLO)
_LAST_CACHE = max(Cache)
_ROOM = bytes(14)  # for the head of a WebSocket frame
# Of so many checks the answers are awaited; older ones had none.
MAX_CHECKS = 1024


class HandshakeError(Exception):
    """What answers at the worker's address is not that worker; the message says who it is."""


class Owner(Protocol):
    """Whoever keeps channels: a link."""

    vitals: Vitals

    def channel_lost(self, channel: Channel, reason: str) -> None: ...
    def take_stats(self, stats: dict[str, Any]) -> None: ...
    def take_models(self, models: Models) -> None: ...
    def model_gone(self, number: int) -> None: ...
    def take_entries(self, payload: bytes) -> None: ...
    def worker_leaves(self) -> None: ...


class Channel(WSListener):
    """One connection to a worker. What is ready in one turn of the loop goes out as one message."""

    def __init__(self, owner: Owner, loop: asyncio.AbstractEventLoop) -> None:
        self.calls: dict[int, Call] = {}
        self.hello: asyncio.Future[handshake.Hello] = loop.create_future()
        self._owner = owner
        self._loop = loop
        self._transport: WSTransport | None = None
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._last_id = 0
        self._checks: dict[int, None] = {}  # ids of those whose answer may come
        self._reason = "the connection was lost"
        self._closed = False

    @classmethod
    async def open(cls, owner: Owner, url: str, challenge: str, within_s: float) -> Channel:
        """Connects and waits for the worker's greeting, in `hello`. Raises OSError, WSError, TimeoutError or
        HandshakeError."""
        loop = asyncio.get_running_loop()
        channel = cls(owner, loop)
        try:
            async with asyncio.timeout(within_s):
                await ws_connect(
                    lambda: channel,
                    url,
                    websocket_handshake_timeout=within_s,
                    enable_auto_ping=True,
                    auto_ping_idle_timeout=5,
                    auto_ping_reply_timeout=5,
                    max_frame_size=frames.MAX_MESSAGE_BYTES,
                    extra_headers={handshake.CHALLENGE_HEADER: challenge},
                )
                await channel.hello
        except BaseException:
            channel.close()
            raise
        return channel

    def send(self, call: Call) -> None:
        """Queues a request; the answer goes to the router."""
        self._last_id = ident = self._last_id % 0xFFFFFFFF + 1
        self.calls[ident] = call
        payload = call.payload
        left_ms = int((call.deadline - call.sent_at) * 1000)
        call.ident = ident
        call.channel = self
        if call.trace is None:
            kind = _FIRST if call.suspect else _INFER
        else:
            kind = _EXPLAIN_FIRST if call.suspect else _EXPLAIN
        self._put(_pack(kind, call.number, ident, len(payload), left_ms if left_ms > 0 else 1), payload)

    def withdraw(self, call: Call) -> None:
        """Nobody waits for this call here any more; a late answer will be dropped."""
        if self.calls.pop(call.ident, None) is not None:
            self._put(_pack(Ask.CANCEL, 0, call.ident, 0, 0), b"")

    def ask(self, kind: Ask, left_ms: int = 0, model: int = 0) -> int:
        """Queues a question of the link's own; a check has its answer in `Vitals.checked`. Returns the id."""
        self._last_id = ident = self._last_id % 0xFFFFFFFF + 1
        self._put(_pack(kind, model, ident, 0, left_ms), b"")
        if kind == Ask.CHECK:
            self._checks[ident] = None
            if len(self._checks) > MAX_CHECKS:
                del self._checks[next(iter(self._checks))]
        return ident

    @property
    def connected(self) -> bool:
        """Whether frames can be sent."""
        return self._transport is not None

    def order(self, kind: Ask, payload: bytes, model: int = 0) -> None:
        """Queues a frame that has no answer of its own."""
        self._put(_pack(kind, model, 0, len(payload), 0), payload)

    def close(self) -> None:
        """Ends the connection, also one that is being made."""
        self._closed = True
        if self._transport is not None:
            self._transport.disconnect()

    def on_ws_connected(self, transport: WSTransport) -> None:
        """picows: the upgrade is done."""
        self._transport = transport
        if self._closed:
            transport.disconnect(False)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """picows: a message has come."""
        if frame.msg_type == WSMsgType.CLOSE:
            reason = frame.get_close_reason() or "no reason given"
            self._reason = f"the worker closed the stream: {frame.get_close_code()}, {reason}"
            transport.disconnect()
        elif frame.msg_type == WSMsgType.BINARY:
            self._owner.vitals.heard = True
            try:
                self._take(frames.tells(frame.get_payload_as_bytes()))
            except (ValueError, msgspec.DecodeError) as error:
                self._reason = f"the worker sent garbage: {error}"
                transport.disconnect(False)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        """picows: the connection is gone."""
        self._transport = None
        if not self.hello.done():
            self.hello.set_exception(HandshakeError(self._reason))
            self.hello.exception()  # it has been seen: whoever waited for it may have given up before
        self._owner.channel_lost(self, self._reason)

    def _take(self, replies: list[tuple[int, int, int, int, int, bytes, int]]) -> None:
        pop = self.calls.pop
        for kind, cache, status, ident, time_us, payload, check in replies:
            if kind >= _HELLO:
                self._control(kind, ident, payload)
                continue
            call = pop(ident, None)
            if call is None:
                self._unexpected(ident, kind, payload)
                continue
            if kind == _RESULT:
                if _check_of(payload, call.key) != check or cache > _LAST_CACHE:
                    kind, payload = _FAILED, b"sent a result that is damaged or belongs to another request"
            elif kind == _REFUSED and not _is_refusal(status, payload):
                kind, payload = _FAILED, b"sent a refusal that can't be read"
            elif kind == _GONE:
                self._owner.model_gone(call.number)
            try:
                call.route.router.answered(call, kind, cache, status, payload, time_us)
            except Exception:  # a bug of ours: this one is told so, and the others in the message get their answers
                logger.exception("an answer could not be handed over")
                (call.first or call).on_error(
                    ApiError(500, "internal_error", "a bug: the log of the gateway says more")
                )

    def _control(self, kind: int, ident: int, payload: bytes) -> None:
        if kind == Tell.HELLO and not self.hello.done():
            try:
                self.hello.set_result(msgspec.json.decode(payload, type=handshake.Hello))
            except msgspec.DecodeError as error:
                self.hello.set_exception(HandshakeError(f"its greeting can't be read: {error}"))
        elif kind == Tell.STATS:
            self._owner.take_stats(msgspec.json.decode(payload, type=dict[str, Any]))
        elif kind == Tell.MODELS:
            self._owner.take_models(msgspec.json.decode(payload, type=Models))
        elif kind == Tell.DRAINING:
            self._owner.worker_leaves()
        elif kind == Tell.ENTRIES:
            self._owner.take_entries(payload)
        elif kind == Tell.TRACE:
            detail = msgspec.json.decode(payload, type=Detail)
            call = self.calls.get(ident)  # else nobody waits for it any more
            if call is not None and call.trace is not None:
                call.trace.detailed(call, detail)
        elif kind != Tell.PONG:
            raise ValueError(f"frame kind {kind} is not one of {[each.name for each in Tell]}")

    def _unexpected(self, ident: int, kind: int, payload: bytes) -> None:
        """The answer to a question of the link, or one that has come too late."""
        if 0 < ident - self._last_id < 2**31:  # beyond: ids have begun again from 1 meanwhile
            raise ValueError(f"an answer to request {ident}, and the last one is {self._last_id}")
        if ident in self._checks:  # ids are those of this connection: another one has the same for something else
            del self._checks[ident]
            self._owner.vitals.checked(ident, kind, payload)

    def _put(self, head: bytes, payload: bytes) -> None:
        out = self._out
        if not out:
            self._loop.call_soon(self._flush)
        elif self._out_bytes > frames.MESSAGE_BYTES:
            self._flush()
        out.append(head)
        out.append(payload)
        self._out_bytes += len(payload) + frames.ASK_HEAD_BYTES

    def _flush(self) -> None:
        out = self._out
        if out and self._transport is not None:
            # The one copy that masking needs: picows masks it in place, and writes its head before it.
            message = bytearray().join((_ROOM, *out))
            self._transport.send_reuse_external_bytearray(WSMsgType.BINARY, message, len(_ROOM))
        out.clear()
        self._out_bytes = 0


def _is_refusal(status: int, payload: bytes) -> bool:
    try:
        msgspec.json.decode(payload, type=Refusal)
    except msgspec.DecodeError:
        return False
    return 400 <= status < 500
