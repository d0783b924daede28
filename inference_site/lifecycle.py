"""Start and stop of what runs behind the views, under every ASGI server: on its lifespan, else on first use."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from django.conf import settings

if TYPE_CHECKING:
    from gateway_app.config import Address
    from gateway_app.gateway import Gateway
    from gateway_app.rpc.server import RpcServer
    from inference_site.exchange import Plane
    from worker_app.direct import DirectInfer

logger = logging.getLogger(__name__)

T = TypeVar("T")
# Far longer than a loop is ever held up: what ends the wait for it is that there is none any more.
TIMEOUT_S = 30.0


class NotRunning(RuntimeError):
    """The process serves nothing (yet), such as a management command that imports a view."""


class Service:
    """What one process runs: a gateway or a worker, bound to the loop that it was started on."""

    loop: asyncio.AbstractEventLoop | None = None
    stopping = False
    succeeds = False  # another process serves until this one is ready: it need not hurry

    @property
    def plane(self) -> Plane:
        """What answers inferences."""
        raise NotImplementedError

    async def start(self) -> None:
        """Runs once, on the server's loop."""

    async def stop(self) -> None:
        """Runs once, on the same loop."""

    def drain(self) -> None:
        """From now on clients are sent away, but what they ask is answered."""

    def leave(self) -> None:
        """The server takes no new clients any more, and neither is anything else here to do so."""

    @property
    def busy(self) -> bool:
        """Whether anything is under way that a stop would lose."""
        return False

    def not_ready(self) -> str:
        """Why no traffic should be sent here; "" if it should."""
        return "this process is draining" if self.stopping else ""


class GatewayService(Service):
    """The gateway, its links, and its gRPC server if there is to be one."""

    def __init__(self, given: Sequence[Address] = (), host: str = "127.0.0.1", grpc_port: int | None = None) -> None:
        """given: workers of the command line that could not be written to the database. grpc_port: None for the
        setting, 0 for none."""
        from gateway_app.gateway import Gateway

        self.gateway: Gateway = Gateway(settings.INFERENCE_TOKEN)
        self.gateway.watcher.given = given
        self._rpc: RpcServer | None = None
        port = settings.GRPC_PORT if grpc_port is None else grpc_port
        if port:
            from gateway_app.rpc.server import RpcServer
            from inference_site.hotpath import HotProtocol

            in_flight, limit = HotProtocol.in_flight, settings.MAX_BODY_BYTES
            self._rpc = RpcServer(self.gateway, host, port, in_flight=in_flight, max_message_bytes=limit)

    @property
    def plane(self) -> Plane:
        return self.gateway

    async def start(self) -> None:
        await self.gateway.start()
        # So that the first request after a start finds its worker; a worker that is down does not hold it up for long.
        await self.gateway.connected(within_s=5.0 if self.succeeds else 1.0)
        if self._rpc is not None:
            await self._rpc.start_soon(succeeds=self.succeeds)

    async def stop(self) -> None:
        if self._rpc is not None:
            await self._rpc.stop(grace_s=1.0)
        await self.gateway.stop()

    def drain(self) -> None:
        self.gateway.draining = True
        self.gateway.live.drain()
        if self._rpc is not None:
            self._rpc.drain()

    def leave(self) -> None:
        if self._rpc is not None:
            self._rpc.leave()

    @property
    def busy(self) -> bool:
        return self.gateway.in_flight > 0


class WorkerService(Service):
    """The models, their batches and the gateways that ask them."""

    def __init__(
        self, node_id: str, model: Path | None, repository: Path | None = None, last_run: Path | None = None
    ) -> None:
        """Loads the model, and all that are in the repository. Raises ModelError if that leaves nothing to serve."""
        from worker_app.direct import DirectInfer
        from worker_app.service import build_node

        self._plane = DirectInfer(build_node(node_id, model, repository, last_run))

    @property
    def plane(self) -> DirectInfer:
        return self._plane

    async def start(self) -> None:
        self._plane.node.start()

    async def stop(self) -> None:
        self._plane.node.close()

    def drain(self) -> None:
        self.plane.node.drain()

    @property
    def busy(self) -> bool:
        """Until the gateways have let go: they drain first, and need this worker until then."""
        return bool(self.plane.node.gateways or self.plane.node.in_flight)


_service: Service | None = None
_starting: asyncio.Task[None] | None = None


def use(service: Service) -> None:
    """Says what this process is; before the server starts."""
    global _service
    _service = service


def service() -> Any:
    """This process's service. Raises NotRunning if there is none."""
    if _service is None:
        raise NotRunning("this process is neither a gateway nor a worker; start rungateway, runnode or runcluster")
    return _service


def on_loop(take: Callable[[], T]) -> T:
    """Takes numbers where they change, so that they are all of one moment; for any thread but the loop's."""

    async def taken() -> T:
        return take()

    return asyncio.run_coroutine_threadsafe(taken(), service().loop).result(TIMEOUT_S)


def plane() -> Plane:
    """What answers inferences in this process."""
    return service().plane  # type: ignore[no-any-return]


async def ensure_started() -> None:
    """Starts the service on the running loop, once; whoever comes meanwhile waits for it. Raises what a start has
    failed with, to everybody."""
    global _starting, _service
    if _starting is None:
        if _service is None:
            _service = _default_service()
        _service.loop = asyncio.get_running_loop()
        _starting = _service.loop.create_task(_service.start())
    if not _starting.done():
        await asyncio.shield(_starting)
    _starting.result()


def drain() -> None:
    """Readiness drops, and clients are told to go."""
    running = service()
    running.stopping = True
    logger.info("draining")
    running.drain()


def is_draining() -> bool:
    """Whether the process has been told to stop."""
    return _service is not None and _service.stopping


async def stop() -> None:
    """Stops the service."""
    if _service is not None and _starting is not None:
        await _service.stop()


def _default_service() -> Service:
    """For servers that were started without one of this project's commands, such as Daphne's runserver."""
    if settings.INFERENCE_MODE == "gateway":
        return GatewayService()
    return WorkerService(os.environ.get("NODE_ID", "worker"), settings.MODEL_PATH, settings.MODEL_REPOSITORY)
