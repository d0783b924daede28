"""gRPC's own health service: whether traffic should be sent here, asked once or watched."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc

from gateway_app.rpc import health_pb2 as pb
from gateway_app.rpc.messages import encode, parse
from inference_site.lib.errors import ApiError

SERVICE = "grpc.health.v1.Health"
_SERVING = encode(pb.HealthCheckResponse(status=pb.HealthCheckResponse.SERVING))
_NOT_SERVING = encode(pb.HealthCheckResponse(status=pb.HealthCheckResponse.NOT_SERVING))
_UNKNOWN = encode(pb.HealthCheckResponse(status=pb.HealthCheckResponse.SERVICE_UNKNOWN))


class Health:
    """Answers for these services and, under the name "", for all together. Watchers are told of a change at once."""

    def __init__(self, *services: str) -> None:
        self._known = {"", SERVICE, *services}
        self._serving = True
        self._ended = False
        self._changed = asyncio.Event()

    def leave(self) -> None:
        """From now on no traffic should come."""
        self._serving = False
        self._tell()

    def end(self) -> None:
        """Lets the watchers go."""
        self._serving, self._ended = False, True
        self._tell()

    def handler(self) -> grpc.GenericRpcHandler:
        """For a server that takes messages as bytes."""
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "Check": grpc.unary_unary_rpc_method_handler(self._check),
                "Watch": grpc.unary_stream_rpc_method_handler(self._watch),
            },
        )

    async def _check(self, data: bytes, context: Any) -> bytes:
        name = await _asked(data, context)
        if name not in self._known:
            await context.abort(grpc.StatusCode.NOT_FOUND, _unknown(name, self._known))
        return self._status(name)

    async def _watch(self, data: bytes, context: Any) -> None:
        name = await _asked(data, context)
        said = b""
        while True:
            changed, status = self._changed, self._status(name)
            if status != said:
                await context.write(status)
                said = status
            if self._ended:
                return
            await changed.wait()

    def _status(self, name: str) -> bytes:
        if name not in self._known:
            return _UNKNOWN
        return _SERVING if self._serving else _NOT_SERVING

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


async def _asked(data: bytes, context: Any) -> str:
    try:
        name: str = parse(pb.HealthCheckRequest, data).service
        return name
    except ApiError as error:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, error.message)
        raise


def _unknown(name: str, known: set[str]) -> str:
    return f"there is no service {name[:100]!r}; there are {', '.join(map(repr, sorted(known)))}"
