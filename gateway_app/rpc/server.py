"""The gRPC server of a gateway: its port, its limits, its drain."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from typing import Any

import grpc

from gateway_app.rpc import health
from gateway_app.rpc.service import SERVICE, InferenceService
from inference_site.exchange import Plane
from inference_site.inflight import InFlightBytes
from inference_site.ports import PortError, listen

logger = logging.getLogger(__name__)

# Further calls hear RESOURCE_EXHAUSTED at once.
MAX_CALLS = 4096
# New calls are still taken for so long, at least, after it is said that none should come.
ACCEPT_S = 1.0
# What is under way then may take this long.
GRACE_S = 30.0
OPTION = "--grpc-port"


class RpcServer:
    """One server on the loop that it is started on."""

    def __init__(
        self,
        plane: Plane,
        host: str,
        port: int,
        *,
        in_flight: InFlightBytes,
        max_message_bytes: int,
        max_calls: int = MAX_CALLS,
    ) -> None:
        """Port 0: any; `port` says which one it was, once it has started."""
        self.host, self.port = host, port
        self._plane = plane
        self._in_flight = in_flight
        self._max_message_bytes = max_message_bytes
        self._max_calls = max_calls
        self._server: Any = None  # until it serves
        self._accept_until = 0.0
        self._task: asyncio.Task[None] | None = None  # that waits for the port, or for the end of the drain

    async def start_soon(self, *, succeeds: bool = False) -> None:
        """Serves, at once or as soon as the port is free: the rest of the gateway does not wait for it."""
        try:
            await self.start(succeeds=succeeds)
        except PortError as error:
            logger.error("gRPC is not served: %s; the port is tried again each second", error)
            self._task = asyncio.create_task(self._keep_trying())

    async def start(self, *, succeeds: bool = False) -> None:
        """Serves. succeeds: another process of this gateway is on the port still. Raises PortError."""
        if not succeeds:
            self._require_free_port()
        self._health = health.Health(SERVICE)
        self._service = InferenceService(self._plane, self._in_flight, self._max_message_bytes)
        server = grpc.aio.server(
            handlers=[self._service, self._health.handler()],
            options=[
                ("grpc.max_receive_message_length", self._max_message_bytes),
                ("grpc.max_send_message_length", -1),
                # Two processes have the port while one takes over from the other.
                ("grpc.so_reuseport", 1),
                # Clients that keep their connection alive by pings may do so often.
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.min_ping_interval_without_data_ms", 5000),
                ("grpc.http2.min_recv_ping_interval_without_data_ms", 5000),
            ],
            maximum_concurrent_rpcs=self._max_calls,
        )
        address = f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
        try:
            self.port = server.add_insecure_port(address)
        except RuntimeError as error:
            raise PortError(f"cannot listen on {address} for gRPC: choose another port with {OPTION}") from error
        await server.start()
        self._server = server
        logger.info("gRPC on %s:%d", self.host, self.port)

    def drain(self) -> None:
        """Says that no more calls should come; those that do are answered."""
        self._cancel_task()
        self._accept_until = time.monotonic() + ACCEPT_S
        if self._server is not None:
            self._health.leave()

    def leave(self) -> None:
        """Soon takes no more calls, after `drain`; what is under way is answered."""
        if self._server is not None:
            self._task = asyncio.create_task(self._leave())

    async def stop(self, grace_s: float) -> None:
        """Takes no more calls, and ends those that are under way by then."""
        self._cancel_task()
        if self._server is not None:
            await self._end(grace_s)

    async def _keep_trying(self) -> None:
        while self._server is None:
            await asyncio.sleep(1)
            with suppress(PortError):
                await self.start()

    async def _leave(self) -> None:
        await asyncio.sleep(max(0.0, self._accept_until - time.monotonic()))
        await self._end(GRACE_S)

    async def _end(self, grace_s: float) -> None:
        self._health.end()
        self._service.inferences.leave()
        await self._server.stop(grace_s)

    def _cancel_task(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def _require_free_port(self) -> None:
        """Who shares a port with a stranger gets half of its clients, and says nothing."""
        with listen(self.host, self.port, OPTION):
            pass
