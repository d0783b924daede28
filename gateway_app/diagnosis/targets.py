"""What is to be checked: the gateway, and the workers it lists; with the first answers of each, asked once."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import Any

import requests

from gateway_app.probe import (
    Answer,
    ask,
    host_port,
    is_gateway_health,
    is_worker_health,
    worker_url,
)

DEFAULT_WORKER_PORTS = (8001, 8002, 8003)
CONNECT_S = 2.0


@dataclass(frozen=True, slots=True)
class Target:
    """A gateway or worker: `connect` is "" if its port takes connections, else why not; `health` what it says there."""

    role: str
    name: str
    url: str
    connect: str
    health: Answer

    @property
    def address(self) -> str:
        host, port = host_port(self.url)
        return f"{host}:{port}"

    @property
    def port(self) -> int:
        return host_port(self.url)[1]

    @property
    def ours(self) -> bool:
        known = is_worker_health if self.role == "worker" else is_gateway_health
        return known(self.health.data)

    @property
    def start_command(self) -> str:
        if self.role == "worker":
            return f"python manage.py runnode {self.port} {self.name}"
        return f"python manage.py rungateway --port {self.port}"


@dataclass(frozen=True, slots=True)
class Targets:
    """Everything to check. `rows`: the gateway's own list, by URL as seen from here; `assumed`: it gave none."""

    gateway: Target
    workers: list[Target]
    stats: Answer
    rows: dict[str, dict[str, Any]]
    assumed: bool


def _connect(url: str) -> str:
    try:
        socket.create_connection(host_port(url), timeout=CONNECT_S).close()
    except ConnectionRefusedError:
        return "connection refused"
    except TimeoutError:
        return f"no connection within {CONNECT_S:g} s"
    except socket.gaierror:
        return "unknown host"
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _look(session: requests.Session, role: str, name: str, url: str, timeout_s: float) -> Target:
    problem = _connect(url)
    health = Answer(0, None, cause=problem) if problem else ask(session, "GET", f"{url}/health", timeout_s=timeout_s)
    return Target(role, name, url, problem, health)


def find_targets(session: requests.Session, gateway_url: str, worker_urls: list[str], timeout_s: float) -> Targets:
    """Workers: those given; else the enabled ones of the gateway's /stats; else the default ports on its host."""
    gateway = _look(session, "gateway", "gateway", gateway_url, timeout_s)
    stats = gateway.health
    if gateway.ours:
        stats = ask(session, "GET", f"{gateway_url}/stats", timeout_s=timeout_s)
    listed = (stats.data or {}).get("workers") if stats.status == 200 else None
    rows = {worker_url(row["address"], gateway_url): row for row in listed or []}
    names = {url: str(row.get("name")) for url, row in rows.items()}
    chosen = worker_urls or [url for url, row in rows.items() if row.get("enabled", True)]
    assumed = not chosen and not gateway.ours
    if assumed:
        chosen = [worker_url(f"127.0.0.1:{port}", gateway_url) for port in DEFAULT_WORKER_PORTS]
    workers = [
        _look(session, "worker", names.get(url, f"worker_{index}"), url, timeout_s)
        for index, url in enumerate(chosen, start=1)
    ]
    return Targets(gateway, workers, stats, rows, assumed)
