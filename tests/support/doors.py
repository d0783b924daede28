"""The ways in which a client may reach the system, each a running server, for tests that ask all of them the same."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.cluster import Server, environment, prepare_database
from tests.support.ports import free_ports
from tests.support.processes import wait_until
from tests.support.wire import Reply, Wire, request

LIMIT_BYTES = 256 * 1024
NAMES = ("gateway", "gateway-django", "worker", "worker-django", "daphne")
DJANGO = {"DATA_PLANE": "django"}
_fresh = itertools.count(1)


@dataclass(frozen=True)
class Door:
    """One server. `fast`: the hot path answers; `nodes`: the workers that may answer through it."""

    name: str
    url: str
    fast: bool
    gateway: bool
    nodes: frozenset[str]
    server: Server

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: Sequence[str] = ("Connection: close",)
    ) -> Reply:
        """One request on a connection of its own."""
        with Wire.to(self.url) as client:
            return client.ask(request(method, path, body, headers))

    def post(self, body: bytes, *headers: str) -> Reply:
        return self.ask("POST", "/infer", body, headers)

    def infer(self, values: Sequence[float], request_id: str = "r1", *headers: str) -> Reply:
        return self.post(json.dumps({"request_id": request_id, "input_data": list(values)}).encode(), *headers)


def fresh_values(count: int = 3) -> list[float]:
    """An input that nobody has sent yet, so that no cache has it."""
    rng = random.Random(next(_fresh))
    return [float(rng.randrange(0, 16))] * (count - 1) + [next(_fresh) + rng.random()]


def assert_error(reply: Reply, status: int, request_id: str | None = None, code: str | None = None) -> dict[str, Any]:
    """An error in the one shape of the contract; `request_id` as it must be in it, None: it must not be there."""
    assert reply.status == status, reply.body[:500]
    assert reply.headers["content-type"].startswith("application/json")
    content: dict[str, Any] = reply.json
    assert set(content) == {"error", "code"} | ({"request_id"} if request_id is not None else set())
    assert isinstance(content["error"], str)
    assert len(content["error"]) > 10
    assert content["code"].replace("_", "").isalpha()
    assert content["code"] == content["code"].lower()
    assert content.get("request_id") == request_id
    if code is not None:
        assert content["code"] == code
    return content


@contextmanager
def doors(directory: Path) -> Iterator[dict[str, Door]]:
    """Two workers, one for each data plane, and three gateways in front of both, on one database."""
    env = {"MAX_BODY_BYTES": str(LIMIT_BYTES)}
    ports = free_ports(5)
    urls = dict(zip(NAMES, (f"http://127.0.0.1:{port}" for port in ports), strict=True))
    environ = environment(directory, env)
    prepare_database(directory, environ, calm=True)
    slow = {**environ, **DJANGO}
    workers = [f"worker_1=127.0.0.1:{ports[2]}", f"worker_2=127.0.0.1:{ports[3]}"]
    both = frozenset({"worker_1", "worker_2"})
    with ExitStack() as stack:

        def start(name: str, arguments: Sequence[str], env: Mapping[str, str]) -> Server:
            return stack.enter_context(Server(arguments, urls[name], env))

        servers = {
            "worker": start("worker", ["runnode", str(ports[2]), "worker_1"], environ),
            "worker-django": start("worker-django", ["runnode", str(ports[3]), "worker_2"], slow),
        }
        for server in servers.values():
            server.wait_ready()
        servers["gateway"] = start("gateway", ["rungateway", *workers, "--port", str(ports[0])], environ)
        servers["gateway"].wait_ready()  # it has written the workers, which the others read
        servers["gateway-django"] = start("gateway-django", ["rungateway", "--port", str(ports[1])], slow)
        servers["daphne"] = start("daphne", ["runserver", "--noreload", f"127.0.0.1:{ports[4]}"], environ)
        for server in servers.values():
            server.wait_ready()
        made = {
            "gateway": Door("gateway", urls["gateway"], True, True, both, servers["gateway"]),
            "gateway-django": Door(
                "gateway-django", urls["gateway-django"], False, True, both, servers["gateway-django"]
            ),
            "worker": Door("worker", urls["worker"], True, False, frozenset({"worker_1"}), servers["worker"]),
            "worker-django": Door(
                "worker-django", urls["worker-django"], False, False, frozenset({"worker_2"}), servers["worker-django"]
            ),
            "daphne": Door("daphne", urls["daphne"], False, True, both, servers["daphne"]),
        }
        for door in made.values():
            if door.gateway:
                wait_until_routable(door, 2)
        yield made


@contextmanager
def lone_doors(directory: Path, workers: Sequence[str] = ()) -> Iterator[dict[str, Door]]:
    """A gateway of each data plane for these workers, which need not be there."""
    with ExitStack() as stack:
        made = {}
        for name, env in (("gateway", {}), ("gateway-django", DJANGO)):
            server = stack.enter_context(Server.gateway(directory / name, *workers, env=env, calm=True)).wait_ready()
            made[name] = Door(name, server.url, not env, True, frozenset(), server)
        yield made


def wait_until_routable(door: Door, count: int) -> None:
    def routable() -> bool:
        with suppress(OSError, EOFError, ValueError):  # it may not be there, or not able to say, yet
            return bool(door.ask("GET", "/health").json.get("routable_workers", 0) >= count)
        return False

    wait_until(f"{door.name} has {count} workers", routable)
