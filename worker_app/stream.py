"""The worker's end of the stream: one WebSocket per gateway, raw ASGI, many requests in flight."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Coroutine, Iterator
from typing import Any

import msgspec

from inference_site.lib import asks, frames, handshake
from inference_site.lib.errors import error_body
from inference_site.lib.frames import Ask, Cache, Tell
from inference_site.lib.nodesettings import NodeSettings
from inference_site.streaming import PARTS
from worker_app import greeting, handoff
from worker_app.explained import detail_of
from worker_app.job import Waiting
from worker_app.model import Model
from worker_app.node import Node
from worker_app.stats import node_stats

logger = logging.getLogger(__name__)

HANDSHAKE_TIMEOUT_S = 5.0
STATS_EVERY_S = 0.5
LONGEST_US = 0xFFFFFFFF  # the time that a reply's head has room for

_LONGEST_RESULT = frames.MAX_MESSAGE_BYTES - frames.TELL_HEAD_BYTES
_INFER, _FIRST = int(Ask.INFER), int(Ask.FIRST)
_INFERENCES = frozenset((_INFER, _FIRST))
_EXPLAINED = frozenset((Ask.EXPLAIN, Ask.EXPLAIN_FIRST))
_decode_uses = msgspec.json.Decoder(frozenset[int]).decode

Token = tuple[int, int]  # of a request: its id on this connection, and the routing key of its ask


class Stream:
    """One gateway's connection. What is ready together leaves as one message."""

    def __init__(self, node: Node, token: str, send: Any, *, bulk: bool = False, max_ask_bytes: int = 0) -> None:
        """max_ask_bytes: the largest ask that may come; 0: nothing is said about it."""
        # A bulk connection carries only large bodies; numbers and orders travel on the gateway's other one.
        self.bulk = bulk
        self.uses: frozenset[int] | None = None
        self._max_ask_bytes = max_ask_bytes
        self._node = node
        self._token = token
        self._send = send
        self._takes_parts = False  # what it sends by; see streaming
        self._out: list[bytes] = []  # head and payload in turn
        self._waiting: dict[int, tuple[Model, Waiting, Token]] = {}  # what has no answer yet, by id
        self._explained: dict[int, float] = {}  # those of them that are to be explained, and since when they wait
        self._tasks: set[asyncio.Task[None]] = set()
        self._ready = asyncio.Event()
        self._flushed = asyncio.Event()  # cleared while several messages leave: nothing is to overtake their last ones
        self._flushed.set()
        self._reading = False
        self._revision: int | None = None
        self._challenge = handshake.new_challenge()

    async def serve(self, scope: dict[str, Any], receive: Any) -> None:
        """From the upgrade request to the end of the connection."""
        headers = dict(scope["headers"])
        self._takes_parts = PARTS in (scope.get("extensions") or {})
        theirs = headers.get(handshake.CHALLENGE_HEADER.encode(), b"").decode("latin-1")
        await receive()  # websocket.connect
        await self._send({"type": "websocket.accept"})
        hello = greeting.hello(self._node, self._token, theirs, self._challenge, self._max_ask_bytes)
        await self._write(frames.tell(Tell.HELLO, 0, msgspec.json.encode(hello)))
        try:
            message = await asyncio.wait_for(receive(), HANDSHAKE_TIMEOUT_S)
        except TimeoutError:  # it has stalled, which says nothing of its token
            logger.warning("a gateway that had connected sent nothing for %g s; it is let go", HANDSHAKE_TIMEOUT_S)
            await self._send({"type": "websocket.close", "code": 1013, "reason": "no proof came"})
            return
        if not greeting.proves(message.get("bytes") or b"", self._token, self._challenge):
            await self._send({"type": "websocket.close", "code": 4401, "reason": "INFERENCE_TOKEN differs"})
            return
        self._start(self._write_replies())
        if not self.bulk:
            self._start(self._push_stats())
        self._node.joined(self)
        if self._node.draining and not hello.draining:  # since then
            self.say_draining()
        try:
            while message["type"] == "websocket.receive":
                self._take(message.get("bytes") or b"")
                if self.bulk:  # several large bodies in one go would look like silence to the other streams
                    await asyncio.sleep(0)
                if self._out:
                    await self._flush()
                message = await receive()
        except (ValueError, msgspec.MsgspecError) as error:
            logger.error("a gateway sent garbage, its stream is closed: %s", error)
            await self._send({"type": "websocket.close", "code": 1002, "reason": str(error)[:100]})
        finally:
            for task in self._tasks:
                task.cancel()
            for ident in tuple(self._waiting):
                self._cancel(ident)
            self._node.left(self)

    def say_draining(self) -> None:
        """Tells the gateway that this process is about to stop."""
        self._put(Tell.DRAINING, 0, b"")

    def say_models(self) -> None:
        """Tells the gateway which models there are; nothing before it has brought settings."""
        if self._revision is not None:
            self._put(Tell.MODELS, 0, msgspec.json.encode(self._node.catalog(self._revision)))

    def _take(self, message: bytes) -> None:
        self._reading = True
        try:
            self._take_frames(frames.asks(message))
        finally:
            self._reading = False

    def _take_frames(self, found: list[tuple[int, int, int, int, bytes]]) -> None:
        models, reply, waiting, key_of = self._node.models, self._reply, self._waiting, asks.key_of
        for kind, number, ident, left_ms, payload in found:
            if kind in _INFERENCES:
                model = models.get(number)
                if model is None:
                    self._put(Tell.GONE, ident, b"")
                    continue
                token = (ident, key_of(payload, model.seed))
                job = model.ask(payload, token, reply, left_ms, token[1] if kind == _FIRST else None, token[1])
                if job is not None:
                    waiting[ident] = (model, job, token)
            elif kind in _EXPLAINED:
                self._explain(kind, number, ident, left_ms, payload)
            else:
                self._order(kind, number, ident, left_ms, payload)

    def _explain(self, kind: int, number: int, ident: int, left_ms: int, payload: bytes) -> None:
        """An inference that is to be explained."""
        model = self._node.models.get(number)
        if model is None:
            self._put(Tell.GONE, ident, b"")
            return
        token = (ident, asks.key_of(payload, model.seed))
        watched = token[1] if kind == Ask.EXPLAIN_FIRST else None
        job = model.ask(payload, token, self._reply_explained, left_ms, watched, token[1])
        if job is not None:
            self._waiting[ident] = (model, job, token)
            self._explained[ident] = time.monotonic()

    def _order(self, kind: int, number: int, ident: int, left_ms: int, payload: bytes) -> None:
        if kind == Ask.CANCEL:
            self._cancel(ident)
        elif kind == Ask.PING:
            self._put(Tell.PONG, ident, b"")
        elif kind == Ask.CHECK:
            self._check(number, ident, left_ms)
        elif kind == Ask.SHARE:
            self._start(self._share(number, ident))
        elif kind == Ask.KEEP:
            handoff.keep(self._node.models.values(), payload)
        elif kind == Ask.SETTINGS:
            self._configure(msgspec.json.decode(payload, type=NodeSettings))
        elif kind == Ask.FLUSH:
            self._flush_caches()
        elif kind == Ask.USES:
            self.uses = _decode_uses(payload)
            self._node.collect()
        elif kind != Ask.PROOF:
            raise ValueError(f"frame kind {kind} is not one of {[each.name for each in Ask]}")

    def _configure(self, settings: NodeSettings) -> None:
        """What a stream brings first is in force, for its database may be new; after that nothing older than it."""
        if self._revision is None or settings.revision >= self._revision:
            self._revision = settings.revision
            self._node.follow(settings)  # which says the models to all gateways
        else:
            self.say_models()

    def _flush_caches(self) -> None:
        forgotten = sum(model.flush() for model in self._node.models.values())
        logger.info("%d cached results are forgotten: an operator has ordered it", forgotten)

    def _check(self, number: int, ident: int, left_ms: int) -> None:
        model = self._node.models.get(number)
        if model is None:
            self._put(Tell.GONE, ident, b"")
            return
        token = (ident, 0)
        job = model.check(token, self._reply, left_ms)
        if job is not None:
            self._waiting[ident] = (model, job, token)

    def _cancel(self, ident: int) -> None:
        waiting = self._waiting.pop(ident, None)
        if waiting is not None:  # else the answer was on its way already
            model, job, token = waiting
            explained = self._explained.pop(ident, None) is not None
            model.cancel(job, token, self._reply_explained if explained else self._reply)

    def _reply(self, token: Any, kind: Tell, cache: Cache, status: int, payload: bytes, time_us: int) -> None:
        ident, key = token
        self._waiting.pop(ident, None)
        if kind is Tell.RESULT and len(payload) > _LONGEST_RESULT:
            kind, status, payload = Tell.REFUSED, 422, _too_large(payload)
        check = frames.check_of(payload, key) if kind is Tell.RESULT else 0
        out = self._out
        time_us = time_us if time_us < LONGEST_US else LONGEST_US
        out.append(frames.pack_tell_head(kind, cache, status, ident, len(payload), time_us, check))
        out.append(payload)
        if not self._reading:  # what is answered while a message is read leaves when it has been read
            self._ready.set()

    def _reply_explained(self, token: Any, kind: Tell, cache: Cache, status: int, payload: bytes, time_us: int) -> None:
        ident, _ = token
        queued_at = self._explained.pop(ident, 0.0)
        if ident in self._waiting:  # else it has been answered at once
            model, job, _ = self._waiting[ident]
            detail = msgspec.json.encode(detail_of(model.ran, job, queued_at, time_us))
            self._out += frames.pack_tell_head(Tell.TRACE, 0, 0, ident, len(detail), 0, 0), detail
        self._reply(token, kind, cache, status, payload, time_us)

    def _put(self, kind: Tell, ident: int, payload: bytes) -> None:
        self._out += frames.pack_tell_head(kind, 0, 0, ident, len(payload), 0, 0), payload
        self._ready.set()

    async def _write_replies(self) -> None:
        with contextlib.suppress(OSError):  # the gateway has left: the reader ends the stream
            while True:
                await self._ready.wait()
                await self._flush()

    async def _flush(self) -> None:
        while not self._flushed.is_set():
            await self._flushed.wait()
        self._ready.clear()
        out, self._out = self._out, []
        if not out:
            return
        if sum(map(len, out)) <= frames.MESSAGE_BYTES:
            await self._write(b"".join(out))
            return
        self._flushed.clear()
        try:
            for parts in _messages(out):
                if self._takes_parts and len(parts) == 2 and len(parts[1]) > frames.MESSAGE_BYTES:
                    await self._send({"type": "websocket.send", "parts": parts})
                else:
                    await self._write(b"".join(parts))
        finally:
            self._flushed.set()

    async def _write(self, data: bytes) -> None:
        await self._send({"type": "websocket.send", "bytes": data})

    async def _share(self, number: int, ident: int) -> None:
        """Sends a model's hottest results, a chunk at a time, so that answers get their turn."""
        model = self._node.models.get(number)
        with contextlib.suppress(OSError):
            for chunk in handoff.chunks(model) if model is not None else (handoff.END,):
                await self._write(frames.tell(Tell.ENTRIES, ident, chunk))
                await asyncio.sleep(0)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _push_stats(self) -> None:
        while True:
            self._put(Tell.STATS, 0, msgspec.json.encode(node_stats(self._node)))
            await asyncio.sleep(STATS_EVERY_S)


def _messages(out: list[bytes]) -> Iterator[list[bytes]]:
    """Heads and payloads as messages of whole frames, none above MESSAGE_BYTES unless a single frame is."""
    begin = size_bytes = 0
    for place in range(0, len(out), 2):
        frame_bytes = len(out[place]) + len(out[place + 1])
        if size_bytes and size_bytes + frame_bytes > frames.MESSAGE_BYTES:
            yield out[begin:place]
            begin, size_bytes = place, 0
        size_bytes += frame_bytes
    yield out[begin:]


def _too_large(result: bytes) -> bytes:
    """Why a result can't be sent."""
    return error_body(
        f"the answer has {len(result)} bytes, {_LONGEST_RESULT} can be sent; ask for less at a time, for fewer "
        "outputs, or for binary ones",
        "answer_too_large",
    )
