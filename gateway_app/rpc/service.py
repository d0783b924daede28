"""The methods of the Open Inference Protocol, each from the plane's answer to its message."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any
from urllib.parse import unquote

import grpc

from gateway_app.rpc import open_inference_pb2 as pb
from gateway_app.rpc.infer import INTERNAL_ERROR, Inferences
from gateway_app.rpc.messages import encode, message_of, parse
from gateway_app.rpc.status import Refused, code_of, metadata_of, trailers_of
from inference_site.exchange import Plane
from inference_site.inflight import InFlightBytes
from inference_site.lib.catalog import ModelInfo
from inference_site.lib.errors import ApiError
from inference_site.v2 import documents
from inference_site.v2.access import require_control
from inference_site.v2.ready import ready_models

logger = logging.getLogger(__name__)

SERVICE = "inference.GRPCInferenceService"

# Takes a message and the call's context.
Method = Callable[[Any, Any], Awaitable[Any]]


class InferenceService(grpc.GenericRpcHandler):
    """Takes and gives messages as bytes, so that what can't be read is answered in this system's words."""

    def __init__(self, plane: Plane, in_flight: InFlightBytes, limit_bytes: int) -> None:
        self.inferences = Inferences(plane, in_flight, limit_bytes)
        self._plane = plane
        self._ordered: set[asyncio.Task[None]] = set()  # loads and unloads; who asked for them may leave
        unary: dict[str, tuple[Any, Method]] = {
            "ServerLive": (pb.ServerLiveRequest, self._server_live),
            "ServerReady": (pb.ServerReadyRequest, self._server_ready),
            "ModelReady": (pb.ModelReadyRequest, self._model_ready),
            "ServerMetadata": (pb.ServerMetadataRequest, self._server_metadata),
            "ModelMetadata": (pb.ModelMetadataRequest, self._model_metadata),
            "ModelConfig": (pb.ModelConfigRequest, self._model_config),
            "ModelStatistics": (pb.ModelStatisticsRequest, self._model_statistics),
            "RepositoryIndex": (pb.RepositoryIndexRequest, self._repository_index),
            "RepositoryModelLoad": (pb.RepositoryModelLoadRequest, self._load),
            "RepositoryModelUnload": (pb.RepositoryModelUnloadRequest, self._unload),
        }
        handlers = {name: grpc.unary_unary_rpc_method_handler(_unary(*each)) for name, each in unary.items()}
        handlers["ModelInfer"] = grpc.unary_unary_rpc_method_handler(self._infer)
        handlers["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(self._stream)
        self._handlers = {f"/{SERVICE}/{name}": each for name, each in handlers.items()}
        self._unknown = grpc.stream_stream_rpc_method_handler(self._not_offered)

    def service(self, handler_call_details: Any) -> Any:
        """grpc: the handler of a method."""
        method = handler_call_details.method
        known = self._handlers.get(method)
        return self._unknown if known is None and method.startswith(f"/{SERVICE}/") else known

    async def _infer(self, data: bytes, context: Any) -> bytes:
        try:
            explain = next((value for key, value in context.invocation_metadata() or () if key == "x-explain"), "0")
            response, headers = await self.inferences.infer(
                parse(pb.ModelInferRequest, data), len(data), context.time_remaining(), explain
            )
            context.set_trailing_metadata(metadata_of(headers))
            return encode(response)
        except Exception as error:
            await _abort(context, error)
            raise

    async def _stream(self, unused: Any, context: Any) -> None:
        await self.inferences.stream(context)

    async def _not_offered(self, unused: Any, context: Any) -> None:
        offered = ", ".join(name.rpartition("/")[2] for name in self._handlers)
        message = f"this method is not offered here (shared memory, trace and log settings are not); use {offered}"
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, message)

    async def _server_live(self, request: Any, context: Any) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    async def _server_ready(self, request: Any, context: Any) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=not self._plane.draining and bool(ready_models(self._plane)))

    async def _model_ready(self, request: Any, context: Any) -> pb.ModelReadyResponse:
        try:
            self._find(request)
        except ApiError:
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=not self._plane.draining)

    async def _server_metadata(self, request: Any, context: Any) -> Any:
        return message_of(pb.ServerMetadataResponse, documents.server())

    async def _model_metadata(self, request: Any, context: Any) -> Any:
        info = self._find(request)
        versions = [each.version for each in ready_models(self._plane, info.name)]
        return message_of(pb.ModelMetadataResponse, documents.metadata(info, versions))

    async def _model_config(self, request: Any, context: Any) -> Any:
        return message_of(pb.ModelConfigResponse, {"config": documents.config(self._find(request))})

    async def _model_statistics(self, request: Any, context: Any) -> Any:
        found = ready_models(self._plane, request.name or None)
        if request.name:
            asked = self._find(request)  # or it says what is wrong
            found = [asked] if request.version else found
        stats = [documents.model_statistics(each, self._plane.statistics(each.name, each.version)) for each in found]
        return message_of(pb.ModelStatisticsResponse, {"model_stats": stats})

    async def _repository_index(self, request: Any, context: Any) -> Any:
        return message_of(pb.RepositoryIndexResponse, {"models": documents.index(self._plane.models(), request.ready)})

    async def _load(self, request: Any, context: Any) -> pb.RepositoryModelLoadResponse:
        for key in request.parameters:
            if key == "config" or key.startswith("file:"):
                message = f"parameter {key[:40]} can't override a file; change the model's record in the admin"
                raise ApiError(400, "not_supported", message)
        await self._order(context, self._plane.load(request.model_name))
        return pb.RepositoryModelLoadResponse()

    async def _unload(self, request: Any, context: Any) -> pb.RepositoryModelUnloadResponse:
        await self._order(context, self._plane.unload(request.model_name))
        return pb.RepositoryModelUnloadResponse()

    async def _order(self, context: Any, order: Coroutine[Any, Any, None]) -> None:
        try:
            require_control(dict(context.invocation_metadata() or ()), host_of(context.peer()))
        except ApiError:
            order.close()
            raise
        task = asyncio.create_task(order)
        self._ordered.add(task)
        task.add_done_callback(self._ordered.discard)
        await asyncio.shield(task)

    def _find(self, request: Any) -> ModelInfo:
        return self._plane.find(request.name or None, request.version or None).info


def host_of(peer: str) -> str:
    """The address in what gRPC says of a peer, such as ipv6:%5B::1%5D:50051."""
    _, _, address = unquote(peer).partition(":")
    return address.rpartition(":")[0].strip("[]")


def _unary(message: Any, method: Method) -> Method:
    async def answer(data: bytes, context: Any) -> bytes:
        try:
            response = await method(parse(message, data), context)
            return encode(response)
        except Exception as error:
            await _abort(context, error)
            raise

    return answer


async def _abort(context: Any, error: Exception) -> None:
    """Ends the call with what has gone wrong."""
    if isinstance(error, Refused):
        answer, headers = error.error, error.headers
    elif isinstance(error, ApiError):
        answer, headers = error, b""
    else:
        logger.error("a call failed", exc_info=error)
        answer, headers = ApiError(500, "internal_error", INTERNAL_ERROR), b""
    await context.abort(code_of(answer), answer.message, trailers_of(answer, headers))
