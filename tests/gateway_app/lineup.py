"""A gateway without a database, over scripted workers with several models."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from gateway_app.core.breaker import BreakerConfig
from gateway_app.gateway import Gateway
from gateway_app.snapshot import Snapshot, WorkerEntry
from inference_site.lib.catalog import ModelInfo, ModelSettings
from inference_site.lib.errors import ApiError
from inference_site.lib.nodesettings import NodeSettings
from tests.gateway_app.core.fleet import PLAIN
from tests.gateway_app.scripted import TIMEOUT_S, ScriptedWorker, Server
from tests.support.waiting import until

NAMES = ("worker_1", "worker_2", "worker_3")
# Silence, time and chance are no matter here: a test that looks at one of them says so.
POLICY = replace(PLAIN, breaker=BreakerConfig(open_s=3600.0), timeout_s=TIMEOUT_S, silence_s=0.0, check_s=0.0)


class Told:
    """An Asker that keeps what it is told."""

    def __init__(self) -> None:
        self.outputs: list[bytes] = []
        self.errors: list[ApiError] = []
        self.headers = b""

    def on_output(self, output: bytes, node_json: bytes, cached: bool, time_us: int, headers: bytes, /) -> None:
        self.outputs.append(output)
        self.headers = headers

    def on_error(self, error: ApiError, headers: bytes, /) -> None:
        self.errors.append(error)
        self.headers = headers

    async def output(self) -> bytes:
        await until(lambda: self.outputs or self.errors)
        assert not self.errors, self.errors[0].message
        (found,) = self.outputs
        return found

    async def error(self) -> ApiError:
        await until(lambda: self.outputs or self.errors)
        (found,) = self.errors
        return found


class Cluster:
    """A gateway without a database, and scripted workers whose answers say by which model they were made."""

    def __init__(self) -> None:
        self.gateway = Gateway("secret")
        self.workers = {name: ScriptedWorker(name) for name in NAMES}
        self.servers: dict[str, Server] = {}
        self.snapshot = Snapshot(policy=POLICY)
        self.ticks: asyncio.Task[None] | None = None
        for worker in self.workers.values():
            worker.instance = f"the first {worker.name}"
            worker.output = self.maker(worker)

    @staticmethod
    def maker(worker: ScriptedWorker) -> Callable[[int, bytes], bytes]:
        def output(number: int, payload: bytes) -> bytes:
            info = next(info for info in worker.models if info.number == number)
            return json.dumps([info.name, info.version, info.digest]).encode()

        return output

    async def start(self, *models: ModelInfo) -> None:
        for name, worker in self.workers.items():
            worker.models = models or worker.models
            self.servers[name] = Server(worker)
        self.configure(
            workers=tuple(WorkerEntry(name, "127.0.0.1", server.port) for name, server in self.servers.items())
        )
        await until(lambda: all(link.ready for link in self.gateway.links.values()))

    def configure(self, *, models: dict[str, ModelSettings] | None = None, **changes: Any) -> None:
        """A new revision."""
        if models is not None:
            changes["node"] = NodeSettings(models=models)
        self.snapshot = replace(self.snapshot, revision=self.snapshot.revision + 1, **changes)
        self.gateway.in_force.take(self.snapshot)

    def ask(self, payload: bytes = b"[1]", name: str | None = None, version: str | None = None) -> Told:
        told = Told()
        self.gateway.find(name, version).ask(payload, told)
        return told

    async def answer(self, payload: bytes = b"[1]", name: str | None = None, version: str | None = None) -> list[str]:
        """[name, version, digest] of the model that has answered."""
        found: list[str] = json.loads(await self.ask(payload, name, version).output())
        return found

    async def tell(self, name: str, *models: ModelInfo) -> None:
        """A worker says what it has from now on, and the gateway has heard it: that, and not what the worker said once
        more when its settings came."""
        await self.workers[name].tell_models(*models)
        await until(lambda: self.gateway.lineup.catalog._workers[name].models.models == models)

    def numbers(self, name: str = "echo", version: str = "1") -> dict[str, int]:
        routes = self.gateway.lineup.served[name, version].router.routes
        return {each: route.number for each, route in routes.items() if route.up}

    async def end(self) -> None:
        await self.gateway.stop()
        for server in self.servers.values():
            if not server.task.done():
                await server.die()


def inputs(count: int) -> list[bytes]:
    return [b"[%d]" % number for number in range(count)]


def plain(cluster: Cluster, body: bytes = b'{"request_id":"r","input_data":[1]}') -> list[tuple[int, dict[str, Any]]]:
    """What a request to /infer is answered with, in time."""
    answers: list[tuple[int, dict[str, Any]]] = []
    cluster.gateway.infer(body, lambda status, head, answer: answers.append((status, json.loads(answer))))
    return answers
