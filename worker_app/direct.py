"""What a worker answers itself, without a gateway in between."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence

import msgspec

from inference_site.exchange import Answer
from inference_site.exchange import Asker as Waiter
from inference_site.lib.asks import key_of
from inference_site.lib.catalog import ModelInfo, ModelSettings, Statistics
from inference_site.lib.errors import ApiError, error_body
from inference_site.lib.frames import Cache, Tell
from inference_site.lib.payload import decode_request, request_id_of
from inference_site.lib.trace import header_of, refused_trace
from inference_site.plain import PlainAsker
from worker_app.explained import Explaining
from worker_app.job import Waiting
from worker_app.model import Model
from worker_app.node import Node

# How long a model may take to load.
LOAD_WITHIN_S = 120.0
_encode = msgspec.json.encode


class Refusal(msgspec.Struct):
    """The payload of REFUSED."""

    error: str
    code: str


_decode_refusal = msgspec.json.Decoder(Refusal).decode


class DirectInfer:
    """The data plane of a worker process."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.node_json = _encode(node.node_id)
        self.heads = {
            cache: b"x-node: %b\r\nx-cache: %b\r\n" % (node.node_id.encode(), cache.name.lower().encode())
            for cache in Cache
        }

    @property
    def draining(self) -> bool:
        """Whether connections are to be closed after their next answer."""
        return self.node.draining

    def infer(
        self, body: bytes, answer: Answer, timeout_ms: int | None = None, since: float | None = None, /
    ) -> DirectAsk | None:
        """Takes the body of a `POST /infer`; `answer` is called exactly once, perhaps at once, unless it is cancelled.

        The client waits for `timeout_ms`, and then gets 504; None: it has named no limit. `since`: see Plane.infer.
        """
        try:
            request_id, payload, name = decode_request(body)
        except ApiError as error:
            answer(error.status, b"", error_body(error.message, error.code, request_id_of(body)))
            return None
        asker = PlainAsker(request_id, answer)
        try:
            model = self.node.find(name, None)
        except ApiError as error:
            asker.on_error(error, self._head_of(error))
            return None
        return self.ask(model, payload, asker, timeout_ms, since)

    def explain(self, status: int, why: str, since: float, /) -> bytes:
        """As exchange.Plane says."""
        return header_of(refused_trace(self.node.node_id, status, why, time.monotonic() - since))

    def ask(
        self, model: Model, payload: bytes, asker: Waiter, timeout_ms: int | None, since: float | None = None
    ) -> DirectAsk | None:
        """As exchange.Served says."""
        if timeout_ms is None:
            timeout_ms = model.record.deadline_ms
        if since is None:
            asked = DirectAsk(self, model, asker)
            return asked if asked.begin(payload, timeout_ms) else None
        explaining = Explaining(asker, model, self.node.node_id, key_of(payload, model.seed), since)
        asked = DirectAsk(self, model, explaining)
        under_way = asked.begin(payload, timeout_ms)
        explaining.queued(asked.job)
        return asked if under_way else None

    def find(self, name: str | None, version: str | None, /) -> DirectModel:
        """As exchange.Plane says."""
        return DirectModel(self, self.node.find(name, version))

    def refused(self) -> None:
        """As exchange.Plane says; a worker counts what its models get."""

    def models(self) -> Sequence[ModelInfo]:
        """As exchange.Plane says."""
        return self.node.infos()

    def statistics(self, name: str, version: str, /) -> Statistics:
        """Of the one that is found under this name and version. Raises ApiError like `find`."""
        model = self.node.find(name, version)
        return self.node.statistics(model.name, model.version)

    async def load(self, name: str, /) -> None:
        """As exchange.Plane says; it holds until a gateway connects, which brings settings of its own."""
        self._may_order("load", name)
        self._order(name, loaded=True)
        try:
            async with asyncio.timeout(LOAD_WITHIN_S):
                while self.node.loader.is_pending(name):
                    await self.node.news.wait()
        except TimeoutError:
            message = f"the model {name!r} is still being loaded after {LOAD_WITHIN_S:.0f} s; look at the index for it"
            raise ApiError(503, "model_not_ready", message, retry_after_s=10) from None
        if reason := self.node.loader.reason(name):
            known = name in self.node.loader.names
            raise ApiError(400 if known else 404, "load_failed" if known else "unknown_model", reason)

    async def unload(self, name: str, /) -> None:
        """As exchange.Plane says; it holds until a gateway connects, which brings settings of its own."""
        self._may_order("unload", name)
        if name not in self.node.loader.names:
            raise ApiError(404, "unknown_model", f"there is no model {name!r} to unload")
        self._order(name, loaded=False)

    def _may_order(self, what: str, name: str) -> None:
        if self.node.gateways:
            raise ApiError(400, "follows_gateway", f"this worker follows its gateway; {what} {name!r} there")

    def _order(self, name: str, *, loaded: bool) -> None:
        node = self.node
        before = node.settings.models.get(name, ModelSettings())
        wish = msgspec.structs.replace(before, loaded=loaded, order=before.order + 1)
        node.configure(msgspec.structs.replace(node.settings, models={**node.settings.models, name: wish}))

    def _head_of(self, error: ApiError) -> bytes:
        head = self.heads[Cache.MISS]
        return head if error.retry_after_s is None else head + b"retry-after: %d\r\n" % error.retry_after_s


class DirectModel:
    """A model as clients of the worker itself find it: an exchange.Served."""

    __slots__ = ("_model", "_plane")

    def __init__(self, plane: DirectInfer, model: Model) -> None:
        self._plane = plane
        self._model = model

    @property
    def info(self) -> ModelInfo:
        """What it takes and gives."""
        return self._model.info

    def ask(
        self, payload: bytes, asker: Waiter, timeout_ms: int | None = None, since: float | None = None, /
    ) -> DirectAsk | None:
        """As exchange.Served says."""
        return self._plane.ask(self._model, payload, asker, timeout_ms, since)


class DirectAsk:
    """A client's request that is under way."""

    __slots__ = ("_asker", "_model", "_plane", "_timer", "job")

    def __init__(self, plane: DirectInfer, model: Model, asker: Waiter) -> None:
        self._plane = plane
        self._model = model
        self._asker = asker
        self.job: Waiting | None = None  # it is under way
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, payload: bytes, timeout_ms: int | None) -> bool:
        """Asks the model; whether it is still under way."""
        self.job = self._model.ask(payload, self, _reply, timeout_ms or 0)
        if self.job is not None and timeout_ms is not None:
            self._timer = asyncio.get_running_loop().call_later(timeout_ms / 1000, self._expire, timeout_ms)
        return self.job is not None

    def cancel(self) -> None:
        """The client has left."""
        if self._timer is not None:
            self._timer.cancel()
        if self.job is not None:
            self._model.cancel(self.job, self, _reply)
            self.job = None

    def reply(self, kind: Tell, cache: Cache, status: int, payload: bytes, time_us: int) -> None:
        """The model's answer."""
        self.job = None
        if self._timer is not None:
            self._timer.cancel()
        plane, asker = self._plane, self._asker
        head = plane.heads[cache]
        if kind is Tell.RESULT:
            asker.on_output(payload, plane.node_json, cache is Cache.HIT, time_us, head)
        elif kind is Tell.REFUSED:
            refusal = _decode_refusal(payload)
            asker.on_error(ApiError(status, refusal.code, refusal.error), head)
        else:
            error = self._failure(kind, payload, time_us)
            asker.on_error(error, plane._head_of(error))

    def _failure(self, kind: Tell, payload: bytes, time_us: int) -> ApiError:
        if kind is Tell.EXPIRED:
            return ApiError(504, "deadline_passed", "the time for this request passed before it was its turn")
        if kind is Tell.BUSY:
            message = (
                f"this worker has {time_us / 1e6:.1f} s of work waiting, more than it may or this request can wait"
            )
            after_s = max(1, math.ceil(time_us / 1e6))
            return ApiError(503, "overloaded", f"{message}; try again later, or ask the gateway", retry_after_s=after_s)
        if kind is Tell.GONE:
            name, version = self._model.name, self._model.version
            message = (
                f"the model {name!r} {version} has just been unloaded, or another version is in its place; try again"
            )
            return ApiError(503, "model_not_ready", message, retry_after_s=1)
        return ApiError(503, "worker_failed", payload.decode(errors="replace"), retry_after_s=1)

    def _expire(self, timeout_ms: int) -> None:
        """The model looks at a deadline when it is the request's turn; the client is not to wait for that."""
        self.cancel()
        message = f"no answer within {timeout_ms} ms; allow more time in X-Request-Timeout-Ms, or try again later"
        self._asker.on_error(ApiError(504, "deadline_passed", message), self._plane.heads[Cache.MISS])


def _reply(token: object, kind: Tell, cache: Cache, status: int, payload: bytes, time_us: int) -> None:
    assert isinstance(token, DirectAsk)
    token.reply(kind, cache, status, payload, time_us)
