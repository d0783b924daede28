"""A gateway and workers as HTTP clients see them, in this process and without a model, with faults to switch on."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

Reply = tuple[int, dict[str, Any] | str]
VALUES = 8


def model(values: list[float]) -> list[float]:
    return [sum(values), sum(value * index for index, value in enumerate(values))]


class StubServer(ThreadingHTTPServer):
    """Answers with `handle(method, path, body)`; a `str` instead of an object goes out as it is, as text/html."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, handle: Callable[[str, str, dict[str, Any]], Reply]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.handle_json = handle
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that leaves is no news."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"

    def stop(self) -> None:
        self.shutdown()
        self.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: StubServer

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status, reply = self.server.handle_json(self.command, self.path, json.loads(body or b"{}"))
        content = (reply if isinstance(reply, str) else json.dumps(reply)).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/html" if isinstance(reply, str) else "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        pass


class StubWorker:
    """Remembers every input; `fault` may replace an answer, `health_extra` what /health says."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.total = self.hits = 0
        self.cache: dict[tuple[float, ...], list[float]] = {}
        self.remembers = True
        self.fault: Callable[[dict[str, Any]], Reply | None] = lambda body: None
        self.health_extra: dict[str, Any] = {}
        self.lock = threading.Lock()
        self.server = StubServer(self.handle)

    def handle(self, method: str, path: str, body: dict[str, Any]) -> Reply:
        if path == "/health":
            return 200, self.health()
        if path == "/infer":
            return self.fault(body) or self.infer(body)
        return 404, {"error": f"no {path}", "code": "not_found"}

    def infer(self, body: dict[str, Any]) -> Reply:
        key = tuple(body["input_data"])
        if len(key) != VALUES:
            error = f"input_data has {len(key)} values, the model takes {VALUES}"
            return 422, {"error": error, "code": "wrong_count", "request_id": body["request_id"]}
        with self.lock:
            self.total += 1
            cached = key in self.cache
            self.hits += cached
            if self.remembers:
                self.cache[key] = model(list(key))
        return 200, {
            "request_id": body["request_id"],
            "output_data": model(list(key)),
            "node_id": self.name,
            "cached": cached,
            "inference_time_us": 100,
        }

    def health(self) -> dict[str, Any]:
        rate = self.hits / self.total if self.total else 0.0
        batches = {"total_batches": 0, "avg_batch_size": 0.0, "timeout_batches": 0, "full_batches": 0}
        shapes = {"input_shape": ["batch", VALUES], "output_shape": ["batch", 2], "batches": True}
        return {
            "healthy": True,
            "node_id": self.name,
            "total_requests": self.total,
            "cache_hits": self.hits,
            "cache_size": len(self.cache),
            "cache_hit_rate": rate,
            "batch_processor": batches,
            "ready": True,
            "draining": False,
            "provider": "CPUExecutionProvider",
            "fallback_reason": "",
            "model": {"name": "stub", **shapes},
            "settings": {"cache_entries": 1000 if self.remembers else 0, "cache_bytes": 1 << 20},
            **self.health_extra,
        }


class StubCluster:
    """A gateway that picks the worker by the input; `fault` may replace its answer to POST /infer number `asked`."""

    def __init__(self, workers: int = 3) -> None:
        self.workers = [StubWorker(f"worker_{index + 1}") for index in range(workers)]
        self.asked = 0
        self.fault: Callable[[dict[str, Any]], Reply | None] = lambda body: None
        self.rows: dict[str, dict[str, Any]] = {worker.name: {} for worker in self.workers}
        self.breakers: dict[str, dict[str, Any]] = {worker.name: {} for worker in self.workers}
        self.health_extra: dict[str, Any] = {}
        self.lock = threading.Lock()
        self.server = StubServer(self.handle)

    @property
    def url(self) -> str:
        return self.server.url

    def handle(self, method: str, path: str, body: dict[str, Any]) -> Reply:
        if path == "/health":
            count = len(self.workers)
            health = {"healthy": True, "total_workers": count, "routable_workers": count, **self.health_extra}
            return 200 if health["healthy"] else 503, health
        if path == "/stats":
            return 200, self.stats()
        with self.lock:
            self.asked += 1
        owner = self.workers[hash(tuple(body["input_data"])) % len(self.workers)]
        return self.fault(body) or owner.infer(body)

    def stats(self) -> dict[str, Any]:
        breakers, rows = [], []
        for worker in self.workers:
            address = worker.server.address
            row = {"name": worker.name, "address": address, "enabled": True, "draining": False, "connected": True}
            rows.append({**row, "routable": True, "last_error": "", "node": None, **self.rows[worker.name]})
            breaker = {"node": address, "name": worker.name, "state": "CLOSED", "failures": 0, "successes": 0}
            breakers.append({**breaker, "retry_after_s": None, "last_error": "", **self.breakers[worker.name]})
        return {
            "total_workers": len(rows),
            "circuit_breakers": breakers,
            "workers": rows,
            "gateway": {"requests": self.asked, "config_error": ""},
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for server in (self.server, *(worker.server for worker in self.workers)):
            server.stop()
