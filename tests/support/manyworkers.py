"""A gateway whose workers exist in its books alone: for sizes, costs and figures, without a network."""

import copy
import time
from collections.abc import Sequence
from typing import Any, cast

from xxhash import xxh3_64_intdigest

from gateway_app.core.call import Route
from gateway_app.core.table import Table
from gateway_app.gateway import Gateway
from gateway_app.modelset import Rules
from gateway_app.snapshot import Snapshot, WorkerEntry
from gateway_app.streams.links import WorkerLink
from inference_site.lib.catalog import ModelInfo, Models, State

Json = dict[str, Any]

REVISION = 7


class BookLink:
    """A link to nobody: what a gateway's figures read of one."""

    max_ask_bytes = 0
    host, port = "127.0.0.1", 1
    leaving = False
    since = 0.0
    last_error = ""

    def __init__(self, name: str, stats: Json | None) -> None:
        self.name = name
        self.ready = self.up = True
        self.revision = REVISION
        self.stats = stats
        self.stats_at = time.monotonic()
        self.routes: Sequence[Route] = ()

    def serve(self, route: Route, number: int) -> bool:
        """As WorkerLink's."""
        route.connected, route.up, route.number, route.instance = True, bool(number), number, self.name
        return False

    def stats_of(self, route: Route) -> Json:
        """As WorkerLink's."""
        models = self.stats["models"] if self.stats is not None else ()
        return next((each for each in models if each["number"] == route.number), {})

    def use(self) -> None:
        """As WorkerLink's."""

    def report(self, stats: Json) -> None:
        """New numbers have come, half a second after the last ones."""
        self.stats, self.stats_at = stats, self.stats_at + 0.5


def report(node_id: str, computed: int = 0, queue_ms: float = 0.0, compute_ms: float = 0.0) -> Json:
    """What a worker says of itself, as `worker_app.stats` makes it; durations are sums over what was computed."""
    statistics = {
        "success": 2 * computed, "success_ns": 0, "fail": 0, "fail_ns": 0, "queue_ns": int(queue_ms * 1e6),
        "compute_input_ns": 0, "compute_infer_ns": int(compute_ms * 1e6), "compute_output_ns": 0, "computed": computed,
        "cache_hits": computed, "cache_hit_ns": 0, "cache_misses": computed, "cache_miss_ns": 0, "inferences": computed,
        "executions": computed, "last_inference_ms": 0, "batches": {"1": [computed, 0], "8": [3, 0], "32": [9, 0]},
        "success_spread": {str(bits): computed for bits in range(14, 24)}, "queue_spread": {"17": computed},
        "compute_spread": {"18": computed}, "fail_late": 0, "fail_engine": 0, "cache_evictions": 0,
    }  # fmt: skip
    counted: Json = {
        "total_requests": 2 * computed, "cache_hits": computed, "joined": 0, "kept": 0, "errors": 0, "expired": 0,
        "abandoned": 0, "cache_size": 1000, "cache_bytes": 48_120, "queue": 0, "limit": 4128, "rate": 8183.5,
        "cache_hit_rate": 0.5, "queue_ms": 0.0, "batch_ms": 0.217,
        "batch_processor": {
            "total_batches": computed, "avg_batch_size": 1.19, "timeout_batches": 0, "full_batches": 0,
            "free_batches": computed,
        },
        "provider": "CPUExecutionProvider",
    }  # fmt: skip
    pace = {"fixed_ms": 0.2444, "each_ms": 0.1146, "sessions": 1}
    sizes = [{"size": 1 << power, "full": 0, "timeout": 0, "free": computed} for power in range(6)]
    model = {"number": 1, "name": "digits", "version": "1", **counted, **pace, "statistics": statistics}
    return {"node_id": node_id, **counted, "batch_sizes": sizes, "model": "digits", "uptime_s": 81.0, "models": [model]}


def gateway_of(workers: int) -> tuple[Gateway, dict[str, BookLink]]:
    """Workers worker_1, ... that have all of the model `digits`, and have reported once."""
    gateway = Gateway("")
    names = [f"worker_{number}" for number in range(1, workers + 1)]
    gateway.snapshot = Snapshot(REVISION, tuple(WorkerEntry(name, "127.0.0.1", 8001) for name in names))
    gateway.table = Table(dict.fromkeys(names, 1.0), 150, xxh3_64_intdigest)
    links = {name: BookLink(name, report(name)) for name in names}
    gateway.links.update(cast(dict[str, WorkerLink], links))
    lineup = gateway.lineup
    lineup.configure(Rules(gateway.table, hot_cache=True))
    digits = ModelInfo(
        number=1, name="digits", version="1", state=State.READY, digest="4be1", cached=True, current=True
    )
    for name in names:
        lineup.show(name, name)
        lineup.catalog.announce(name, Models(revision=REVISION, default="digits", models=(copy.copy(digits),)))
    lineup.follow()
    return gateway, links
