"""A site with only the two pages on it, rendered by their real views over figures that a test may change."""

import copy
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from django.contrib.auth.models import AnonymousUser
from django.contrib.staticfiles import finders
from django.test import RequestFactory

from tests.support import pagefigures
from tests.support.livesocket import serve_live

Json = dict[str, Any]
# What answers a request that the site does not know itself: the query and the body in, status and answer out.
Handler = Callable[[dict[str, list[str]], bytes], tuple[int, Json]]

# As strict as a policy can be: no inline script, no inline style, nothing from elsewhere.
POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'"
TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


def gateway_worker(number: int, requests: int, key_share: float, traffic_share: float) -> Json:
    address = f"127.0.0.1:{8000 + number}"
    hits = int(requests * 0.874)
    batches = max(1, (requests - hits) // 6)
    return {
        "name": f"worker_{number}",
        "address": address,
        "weight": 1.0,
        "enabled": True,
        "draining": False,
        "isolated": False,
        "silent": False,
        "connected": True,
        "connection_s": 8100.0,
        "leaving": False,
        "routable": True,
        "in_flight": 4 + number,
        "limit": 0,
        "requests": requests,
        "failures": 0,
        "key_share": key_share,
        "traffic_share": traffic_share,
        "last_error": "",
        "stats_age_s": 0.4,
        "revision": 7,
        "requests_per_s": 2800.0 + number,
        "recent_hit_rate": 0.874,
        "split_ms": {"network": 0.4, "queue": 1.2, "compute": 3.1},
        "batches": pagefigures.batch_sizes(),
        "node": {
            "models": [node_model("digits", "1", requests, hits, batches)],
            "node_id": f"worker_{number}",
            "total_requests": requests,
            "cache_hits": hits,
            "cache_size": 1000,
            "cache_hit_rate": hits / requests,
            "cache_bytes": 412_000,
            "queue": 0,
            "batch_processor": {
                "total_batches": batches,
                "avg_batch_size": 6.04,
                "timeout_batches": 12,
                "full_batches": batches // 9,
                "free_batches": batches - batches // 9 - 12,
            },
            "provider": "CPUExecutionProvider",
            "model": "digits",
            "uptime_s": 8121.0,
            "errors": 0,
        },
    }


def node_model(name: str, version: str, requests: int, hits: int, batches: int) -> Json:
    """What a worker reports of one version."""
    return {
        "number": 1,
        "name": name,
        "version": version,
        "total_requests": requests,
        "cache_hits": hits,
        "queue": 2,
        "batch_processor": {"total_batches": batches, "avg_batch_size": 6.04},
    }


def served_model(name: str = "digits", version: str = "1", **values: Any) -> Json:
    """One version in /stats, in good health on three workers."""
    workers = [{"name": f"worker_{number}", "state": "READY", "reason": "", "number": 1} for number in (1, 2, 3)]
    return {
        "name": name,
        "version": version,
        "state": "READY",
        "reason": "",
        "default": True,
        "digest": "4be1c60f02a9d8f1",
        "workers": workers,
        "requests": 1_210_863,
        "errors": 37,
        "hot_hits": 0,
        "joined": 0,
        "in_flight": 18,
        "requests_per_s": 8423.4,
        "p50_ms": 1.84,
        "p99_ms": 12.61,
        "batches": True,
        "max_batch_size": 32,
        "cached": True,
        "provider": "CPUExecutionProvider",
        **values,
    }


def breaker(worker: Json, model: str = "digits") -> Json:
    return {
        "model": model,
        "node": worker["address"],
        "name": worker["name"],
        "state": "CLOSED",
        "failures": 0,
        "successes": 0,
        "failure_threshold": 5,
        "success_threshold": 2,
        "since_s": 8121.0,
        "retry_after_s": None,
        "opens": 0,
        "last_error": "",
        "last_error_age_s": None,
        "cause": "",
        "reason": "",
    }


def gateway_stats() -> Json:
    """GET /stats of a gateway with three workers in good health."""
    workers = [
        gateway_worker(1, 412_093, 0.338, 0.341),
        gateway_worker(2, 398_552, 0.331, 0.329),
        gateway_worker(3, 400_218, 0.331, 0.330),
    ]
    return {
        "total_workers": 3,
        "circuit_breakers": [breaker(worker) for worker in workers],
        "workers": workers,
        "models": [served_model()],
        "gateway": {
            "requests": 1_210_863,
            "errors": 37,
            "in_flight": 18,
            "requests_per_s": 8423.4,
            "hot_hits": 0,
            "hot_entries": 0,
            "joined": 0,
            "spills": 0,
            "retries": 4,
            "hedges": 1204,
            "hedge_wins": 311,
            "budget_exhausted": 0,
            "expired": 7,
            "cancelled": 1,
            "shed": 52,
            "suspects_refused": 0,
            "p50_ms": 1.84,
            "p95_ms": 4.9,
            "p99_ms": 12.61,
            "uptime_s": 8124.0,
            "revision": 7,
            "config_error": "",
            "draining": False,
            "processes": 4,
            "processes_current": 4,
            "hit_rate": 0.874,
            "error_percent": 0.0,
            "split_ms": {"gateway": 0.1, "network": 0.4, "queue": 1.2, "compute": 3.1},
        },
        "hottest": pagefigures.hottest(),
        "point": pagefigures.point(0),
        "canary": None,
        "guard": None,
        "events": [],
    }


def event(worker: str, before: str, after: str, reason: str, age_s: float, **values: Any) -> Json:
    """A breaker's, unless `values` say otherwise."""
    at = "2026-11-23T12:00:00.000+00:00"
    found = {"at": at, "age_s": age_s, "kind": "breaker", "worker": worker, "model": "", "before": before}
    return {**found, "after": after, "reason": reason, "author": "", **values}


def canary() -> Json:
    """In /stats, while one worker tries a larger batch."""
    compare = [
        {"what": "p99", "canary": 9.8, "others": 12.6, "unit": "ms"},
        {"what": "mean batch", "canary": 11.2, "others": 6.0, "unit": "rows"},
        {"what": "errors", "canary": 0.0, "others": 0.0, "unit": "%"},
    ]
    tried = {"worker": "worker_3", "tuning": {"batch_size": 64}, "model": "", "version": ""}
    said = "worker_3 does better: p99 9.8 ms, the others' 12.6 ms"
    state = {"counted_s": 90.0, "state": "in force", "requests": 41_020, "needed": 200}
    return {**tried, "author": "admin", "age_s": 94.0, **state, "compare": compare, "verdict": said}


def guard() -> Json:
    """In /stats, while a revision may be taken back."""
    limits = {"error_points": 1.0, "p99_factor": 2.0, "base_error_percent": 0.01, "base_p99_ms": 12.6}
    now = {"error_percent": 0.02, "p99_ms": 13.1, "outcome": ""}
    return {"revision": 7, "back_to": 6, "state": "watching", "left_s": 271.0, **limits, **now}


def open_breaker(stats: Json, number: int) -> None:
    """Worker `number` stops answering: its breaker opens."""
    error = f"connection to 127.0.0.1:{8000 + number} refused. Is the worker running?"
    stats["workers"][number - 1].update(
        connected=False, connection_s=12.5, routable=False, in_flight=0, last_error=error
    )
    reason = f"5 failures in a row, the last: {error}"
    told = {"last_error": error, "last_error_age_s": 12.5, "cause": "failures", "reason": reason}
    stats["circuit_breakers"][number - 1].update(
        state="OPEN", failures=5, since_s=12.5, retry_after_s=17.2, opens=1, **told
    )
    stats["events"].append(event(f"worker_{number}", "CLOSED", "OPEN", reason, age_s=12.5))


def worker_health() -> Json:
    """GET /health of a worker that fell back to the CPU."""
    node: Json = gateway_worker(1, 412_093, 0.338, 0.341)["node"]
    model: Json = {
        "name": "digits",
        "file": "digits.onnx",
        "input": "pixels",
        "input_shape": ["batch", 64],
        "input_type": "float32",
        "pad_with_zeros": True,
        "output": "probabilities",
        "output_shape": ["batch", 10],
        "batches": True,
        "digest": "4be1c60f02a9d8f1",
    }
    node["models"][0] |= {"state": "READY", "reason": "", "current": True, "default": True, "cache_hit_rate": 0.874}
    node["models"][0] |= {"provider": "CPUExecutionProvider"}
    settings: Json = {"revision": 7, "cache_entries": 1000, "cache_bytes": 268_435_456}
    settings |= {"batch_size": 32, "batch_wait_ms": 20.0, "batch_eager": True}
    reason = "CUDA failed to load: libcuda.so.1 is not on this machine"
    return node | {
        "healthy": True,
        "ready": True,
        "draining": False,
        "cache_capacity": 1000,
        "fallback_reason": reason,
        "model": model,
        "settings": settings,
        "gateways": 1,
    }


class _Server(ThreadingHTTPServer):
    request_queue_size = 128  # what a page asks for at once, although nobody accepts for a while


class PagesSite:
    """`/` is the gateway's page, `/worker/` a worker's. A context manager; change its figures and `user` at will.

    `live` False refuses the WebSocket, `silent` True holds back what it would push. `handlers` answer what it does not
    know itself, by (method, path); `posted` has what was sent by POST: path, headers and body.
    """

    def __init__(self) -> None:
        self.stats = gateway_stats()
        self.history = pagefigures.history()
        self.ring = pagefigures.ring()
        self.traces = pagefigures.traces()
        self.health = worker_health()
        self.health_status = 200
        self.broken = False  # True: the figures answer 500, the pages still load
        self.live = True
        self.silent = False
        self._open: set[object] = set()  # one for each WebSocket
        self.user: Any = AnonymousUser()
        self.handlers: dict[tuple[str, str], Handler] = {}
        self.posted: list[tuple[str, dict[str, str], bytes]] = []
        self._server = _Server(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}/"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.live = False
        self._server.shutdown()
        self._server.server_close()

    def answer(self, method: str, target: str, body: bytes = b"") -> tuple[int, str, bytes]:
        """Status, content type and body for a request."""
        parts = urlsplit(target)
        path = parts.path
        if page := self._page(path):
            return 200, "text/html; charset=utf-8", page
        figures = self._figures(method, path, parse_qs(parts.query), body)
        if figures is not None and self.broken:
            return 500, "text/plain", b"broken on purpose"
        if figures is not None:
            status, answer = figures
            return status, "application/json", json.dumps(answer).encode()
        found = finders.find(path.removeprefix("/static/")) if path.startswith("/static/") else None
        if not isinstance(found, str):
            return 404, "text/plain", b"not found"
        file = Path(found)
        return 200, TYPES[file.suffix], file.read_bytes()

    def push(self, handler: BaseHTTPRequestHandler) -> None:
        """Serves one WebSocket."""

        def take() -> tuple[Json, Json] | None:
            return (self.stats, self.history) if self.live and not self.broken else None

        page = object()
        self._open.add(page)
        try:
            serve_live(handler, take, lambda: self.silent)
        finally:
            self._open.discard(page)

    @property
    def pages(self) -> int:
        """WebSockets that are open."""
        return len(self._open)

    @contextmanager
    def change(self) -> Iterator[Json]:
        """The figures of /stats, to be changed in several steps: no page sees them half changed."""
        changed = copy.deepcopy(self.stats)
        yield changed
        self.stats = changed

    def _page(self, path: str) -> bytes | None:
        from gateway_app.dashboard import dashboard
        from worker_app.dashboard import worker_page

        page = {"/": dashboard, "/worker/": worker_page}.get(path)
        if page is None:
            return None
        request = RequestFactory().get(path)
        request.user = self.user
        return page(request).content

    def _figures(self, method: str, path: str, query: dict[str, list[str]], body: bytes) -> tuple[int, Json] | None:
        handler = self.handlers.get((method, path))
        if handler is not None:
            return handler(query, body)
        if (method, path) == ("POST", "/where"):
            return pagefigures.where(body, self.stats)
        found = {"/stats": self.stats, "/history": self.history, "/ring": self.ring, "/traces": self.traces}
        if path == "/worker/health":
            return self.health_status, self.health
        return (200, found[path]) if path in found else None

    def _handler(site: Self) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path == "/live" and site.live and not site.broken:
                    site.push(self)
                else:
                    self.reply(site.answer("GET", self.path))

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                site.posted.append((self.path, dict(self.headers), body))
                self.reply(site.answer("POST", self.path, body))

            def reply(self, answer: tuple[int, str, bytes]) -> None:
                status, content_type, body = answer
                self.send_response(status)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Content-Security-Policy", POLICY)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Quiet: a test that fails says why itself."""

        return Handler
