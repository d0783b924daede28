"""A worker's numbers, as `/health` shows them and as the gateway gets them pushed."""

from __future__ import annotations

import time
from typing import Any

from worker_app.core.batcher import Release
from worker_app.node import Node


def node_stats(node: Node) -> dict[str, Any]:
    """Counters since the process started, what waits now, and how fast it goes.

    `queue_ms` is how long a request that comes now would wait, `limit` how many one gateway may have in flight here,
    `rate` samples per second while there is enough to do, `batch_ms` what a batch took of late.
    """
    batcher = node.batcher
    total, hits = node.total_requests, node.cache_hits
    batch_size = node.settings.batch_size
    return {
        "node_id": node.node_id,
        "total_requests": total,
        "cache_hits": hits,
        "joined": node.joined,
        "kept": node.kept,
        "cache_size": len(node.results),
        "cache_hit_rate": round(hits / total, 4) if total else 0.0,
        "cache_bytes": node.results.size_bytes,
        "queue": len(batcher),
        "queue_ms": round(1000 * node.wait_s, 1),
        "limit": max(2 * batch_size, (batcher.limit + batch_size) // max(1, _gateways(node))),
        "rate": round(node.rate, 1),
        "batch_ms": round(1000 * node.engine.typical_s, 3),
        "errors": node.errors,
        "expired": node.expired,
        "abandoned": node.abandoned,
        "batch_processor": {
            "total_batches": batcher.batches,
            "avg_batch_size": round(batcher.mean_size, 2),
            "timeout_batches": batcher.counts[Release.TIMEOUT],
            "full_batches": batcher.counts[Release.FULL],
            "free_batches": batcher.counts[Release.FREE],
        },
        "provider": node.engine.provider,
        "model": node.engine.record.name,
        "uptime_s": round(time.monotonic() - node.started_at, 1),
    }


def node_health(node: Node) -> dict[str, Any]:
    """What `GET /health` answers."""
    settings = node.settings
    return {
        "healthy": True,
        **node_stats(node),
        "ready": not node.draining,
        "draining": node.draining,
        "cache_capacity": settings.cache_entries,
        "fallback_reason": node.engine.fallback_reason,
        "model": node.engine.describe(),
        "settings": {name: getattr(settings, name) for name in settings.__struct_fields__},
        "gateways": _gateways(node),
    }


def _gateways(node: Node) -> int:
    return sum(not stream.bulk for stream in node.gateways)
