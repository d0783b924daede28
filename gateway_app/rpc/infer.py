"""Inferences over gRPC: one request and its answer, and a stream of them."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any, Self

import grpc

from gateway_app.rpc import open_inference_pb2 as pb
from gateway_app.rpc.contents import size_of
from gateway_app.rpc.messages import encode, parse
from gateway_app.rpc.status import Refused
from gateway_app.rpc.tensors import ask_of, check, require_size, response_of
from inference_site.coding import AT_ONCE_BYTES, threads
from inference_site.exchange import Plane
from inference_site.heads import read_explain
from inference_site.inflight import InFlightBytes
from inference_site.lib.catalog import ModelInfo
from inference_site.lib.errors import ApiError
from inference_site.v2.request import MAX_TIMEOUT_MS, timeout_ms_of

logger = logging.getLogger(__name__)

# Of one stream, under way at the same time; further ones wait in its connection.
MAX_AHEAD = 128
INTERNAL_ERROR = "a bug: the log of this process says more"
FINAL_RESPONSE = "triton_final_response"


class Waiting:
    """Who waits for the answer to one ask: (result, header lines), or Refused. `info`: of the version that gave it."""

    __slots__ = ("future", "info", "told")

    def __init__(self, info: ModelInfo) -> None:
        self.info = info
        self.future: asyncio.Future[tuple[bytes, bytes]] = asyncio.get_running_loop().create_future()
        self.told = False

    def answered_by(self, info: ModelInfo, /) -> None:
        """Another version answers than the one that was found."""
        self.info = info

    def on_output(self, output: bytes, node_json: bytes, cached: bool, time_us: int, headers: bytes, /) -> None:
        """exchange.Asker."""
        self.told = True
        if not self.future.done():
            self.future.set_result((output, headers))

    def on_error(self, error: ApiError, headers: bytes, /) -> None:
        """exchange.Asker."""
        self.told = True
        if not self.future.done():
            self.future.set_exception(Refused(error, headers))


class Held:
    """A message whose bytes are counted among those in flight; small ones too, of which a stream may hold many."""

    __slots__ = ("_in_flight", "counted_bytes")

    def __init__(self, in_flight: InFlightBytes, length: int) -> None:
        self.counted_bytes = 0
        self._in_flight = in_flight
        self.count(length)

    def count(self, length: int) -> None:
        """It takes so much. Raises ApiError 503."""
        if not self._in_flight.count(self, length):
            message = (
                f"the requests of this process would be more than {self._in_flight.limit} bytes together; "
                "try again, or raise MAX_IN_FLIGHT_BYTES"
            )
            raise ApiError(503, "overloaded", message, retry_after_s=1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._in_flight.give_back(self)


class Inferences:
    """Asks the plane what comes over gRPC."""

    def __init__(self, plane: Plane, in_flight: InFlightBytes, limit_bytes: int) -> None:
        """limit_bytes: of one request, as its message and as what it becomes."""
        self._plane = plane
        self._limit_bytes = limit_bytes
        self._in_flight = in_flight
        self._leaving = asyncio.Event()

    def leave(self) -> None:
        """Streams read no further; what they have read is answered."""
        self._leaving.set()

    async def infer(
        self, request: pb.ModelInferRequest, length: int, remaining_s: float | None, explain: str = "0"
    ) -> tuple[pb.ModelInferResponse, bytes]:
        """The response, and the header lines of who gave it; `length` is the message's, in bytes; `explain` is the
        value of X-Explain.

        Raises ApiError, or Refused. Cancelled, nothing more is done for it alone.
        """
        with Held(self._in_flight, length) as held:
            since, explained = time.monotonic(), False
            try:
                explained = read_explain(explain)
                timeout_ms = wait_ms_of(request, remaining_s)
                served = self._plane.find(request.model_name or None, request.model_version or None)
                ask, ident = await self._ask_of(request, length, held), request.id
            except ApiError as error:
                self._plane.refused()
                if explained:
                    raise Refused(error, self._plane.explain(error.status, error.message, since)) from None
                raise
            waiting = Waiting(served.info)
            del request  # its tensors are in the ask now
            ticket = served.ask(ask, waiting, timeout_ms, since if explained else None)
            try:
                result, headers = await waiting.future
            except asyncio.CancelledError:
                if ticket is not None and not waiting.told:
                    ticket.cancel()
                raise
            return response_of(result, waiting.info, ident), headers

    async def _ask_of(self, request: pb.ModelInferRequest, length: int, held: Held) -> bytes:
        """The ask of a request; in a thread if that takes long. Raises ApiError."""
        check(request)
        if length - sum(map(len, request.raw_input_contents)) <= AT_ONCE_BYTES:
            return ask_of(request, self._limit_bytes)
        if not request.raw_input_contents:
            size = size_of(request.inputs, length)
            require_size(size, self._limit_bytes)
            held.count(length + size)
        return await asyncio.get_running_loop().run_in_executor(threads(), ask_of, request, self._limit_bytes)

    async def stream(self, context: Any) -> None:
        """Answers each request of a stream, in their order; what is wrong with one is told in its place."""
        answers: asyncio.Queue[asyncio.Task[bytes] | None] = asyncio.Queue(MAX_AHEAD)
        under_way: set[asyncio.Task[Any]] = set()

        async def read() -> None:
            while (data := await self._next(context)) is not None:
                answer = asyncio.create_task(self._answer(data, context))
                under_way.add(answer)
                await answers.put(answer)
            await answers.put(None)

        reading = asyncio.create_task(read())
        under_way.add(reading)
        try:
            while (answer := await answers.get()) is not None:
                await context.write(await answer)
                under_way.discard(answer)
            await reading
        finally:
            for each in under_way:
                each.cancel()
        if self._leaving.is_set():
            await context.abort(grpc.StatusCode.UNAVAILABLE, "this process is draining; open the stream again")

    async def _next(self, context: Any) -> bytes | None:
        """The next message of a stream; None after the last."""
        if self._leaving.is_set():
            return None
        read, leaving = asyncio.ensure_future(context.read()), asyncio.ensure_future(self._leaving.wait())
        try:
            await asyncio.wait((read, leaving), return_when=asyncio.FIRST_COMPLETED)
            data = read.result() if read.done() else grpc.aio.EOF
            return None if data is grpc.aio.EOF else data
        finally:
            read.cancel()
            leaving.cancel()

    async def _answer(self, data: bytes, context: Any) -> bytes:
        request = pb.ModelInferRequest()
        try:
            request = parse(pb.ModelInferRequest, data)
            response, _ = await self.infer(request, len(data), context.time_remaining())
            response.parameters[FINAL_RESPONSE].bool_param = True
            return encode(pb.ModelStreamInferResponse(infer_response=response))
        except (ApiError, Refused) as error:
            message = str(error)
        except Exception:
            logger.exception("an inference of a stream failed")
            message = INTERNAL_ERROR
        refused = pb.ModelInferResponse(
            model_name=request.model_name, model_version=request.model_version, id=request.id
        )
        refused.parameters[FINAL_RESPONSE].bool_param = True
        return encode(pb.ModelStreamInferResponse(error_message=message, infer_response=refused))


def wait_ms_of(request: pb.ModelInferRequest, remaining_s: float | None) -> int | None:
    """How long the client waits, by its deadline and the parameter `timeout` in microseconds; None: it has not said.

    Raises ApiError 400.
    """
    said = []
    if "timeout" in request.parameters:
        parameter = request.parameters["timeout"]
        value = getattr(parameter, parameter.WhichOneof("parameter_choice") or "int64_param")
        if type(value) is not int:
            raise ApiError(400, "invalid_timeout", f"parameters.timeout is {value!r}; send microseconds as an integer")
        timeout_ms = timeout_ms_of(value)
        if timeout_ms is not None:
            said.append(timeout_ms)
    if remaining_s is not None:
        said.append(min(MAX_TIMEOUT_MS, max(1, int(remaining_s * 1000))))
    return min(said, default=None)
