"""A worker's numbers, as `/health` shows them and as the gateway gets them pushed."""

from __future__ import annotations

import time
from typing import Any

import msgspec

from inference_site.lib.errors import ApiError
from worker_app.batchsizes import Histogram, add_batches, batch_rows, by_release
from worker_app.core.batcher import Release
from worker_app.model import Model
from worker_app.node import Node

# Of all models together: those that are loaded, and those that were.
_SUMMED = ("total_requests", "cache_hits", "joined", "kept", "errors", "expired", "abandoned")
# Of those that are loaded.
_PRESENT = ("cache_size", "cache_bytes", "queue", "limit", "rate")


def node_stats(node: Node) -> dict[str, Any]:
    """Counters since the process started, what waits now, and how fast it goes; then the same of each loaded model.

    `queue_ms` is how long a request that comes now would wait, at the worst; `limit` how many one gateway may have in
    flight here, `rate` rows per second while there is enough to do, `batch_ms` what a batch took of late. `batch_sizes`
    counts the batches by how many rows they had at the most, and by why they were released. For a batch of n rows a
    model's engine is expected to take `fixed_ms` + n * `each_ms`, in each of its sessions.
    """
    gateways = max(1, _gateways(node))
    models = [
        {**model_stats(model, gateways), "statistics": _statistics(node, model)} for model in node.models.values()
    ]
    past = node.past.tally
    totals: dict[str, Any] = dict(
        zip(
            _SUMMED,
            (past.requests, past.hits, past.joined, past.kept, past.errors, past.expired, past.abandoned),
            strict=True,
        )
    )
    for name in (*_SUMMED, *_PRESENT):
        totals[name] = totals.get(name, 0) + sum(model[name] for model in models)
    totals["rate"] = round(totals["rate"], 1)
    sizes: Histogram = {}
    rows = node.past.rows + sum(model.batcher.taken for model in node.models.values())
    for each in (node.past.batches, *(model.batcher.histogram for model in node.models.values())):
        add_batches(sizes, each)
    default = _default(node)
    return {
        "node_id": node.node_id,
        **totals,
        "cache_hit_rate": _rate(totals["cache_hits"], totals["total_requests"]),
        "queue_ms": max((model["queue_ms"] for model in models), default=0.0),
        "batch_ms": max((model["batch_ms"] for model in models), default=0.0),
        "batch_processor": _batches(by_release(sizes), rows),
        "batch_sizes": batch_rows(sizes),
        "provider": default.engine.provider if default is not None else "",
        "model": default.name if default is not None else "",
        "uptime_s": round(time.monotonic() - node.started_at, 1),
        "models": models,
    }


def node_health(node: Node) -> dict[str, Any]:
    """What `GET /health` answers."""
    stats, default = node_stats(node), _default(node)
    known = {model["number"]: model for model in stats["models"]}
    reasons = {model.number: model.engine.fallback_reason for model in node.models.values()}
    any_reason = next(filter(None, reasons.values()), "")
    return {
        "healthy": True,
        **stats,
        "ready": not node.draining,
        "draining": node.draining,
        "cache_capacity": sum(model.results.max_entries for model in node.models.values()),
        "fallback_reason": default.engine.fallback_reason if default is not None else any_reason,
        "model": default.engine.describe() if default is not None else {},
        "settings": msgspec.to_builtins(node.settings),
        "gateways": _gateways(node),
        "models": [
            {
                **known.get(info.number, {}),
                **msgspec.to_builtins(info),
                "fallback_reason": reasons.get(info.number, ""),
                "default": info.name == node.default,
            }
            for info in node.infos()
        ],
    }


def model_stats(model: Model, gateways: int = 1) -> dict[str, Any]:
    """One loaded model's numbers, for one of so many gateways."""
    tally, batcher, size = model.tally, model.batcher, model.batcher.max_size
    return {
        "number": model.number,
        "name": model.name,
        "version": model.version,
        "total_requests": tally.requests,
        "cache_hits": tally.hits,
        "joined": tally.joined,
        "kept": tally.kept,
        "cache_size": len(model.results),
        "cache_hit_rate": _rate(tally.hits, tally.requests),
        "cache_bytes": model.results.size_bytes,
        "cache_util": round(model.results.util, 4),
        "queue": len(batcher),
        "queue_ms": round(1000 * model.wait_s, 1),
        "limit": max(2 * size, (batcher.limit + size) // gateways),
        "rate": round(model.rate, 1),
        "batch_ms": round(1000 * model.engine.typical_s, 3),
        "fixed_ms": round(1000 * model.pace.fixed_s, 4),
        "each_ms": round(1000 * model.pace.each_s, 4),
        "sessions": model.engine.sessions,
        "errors": tally.errors,
        "expired": tally.expired,
        "abandoned": tally.abandoned,
        "batch_processor": _batches(batcher.counts, batcher.taken),
        "provider": model.engine.provider,
    }


def _batches(counts: dict[Release, int], rows: int) -> dict[str, Any]:
    total = sum(counts.values())
    return {
        "total_batches": total,
        "avg_batch_size": round(rows / total, 2) if total else 0.0,
        "timeout_batches": counts[Release.TIMEOUT],
        "full_batches": counts[Release.FULL],
        "free_batches": counts[Release.FREE],
    }


def _statistics(node: Node, model: Model) -> dict[str, Any]:
    """V2's, which go on when a version is loaded anew."""
    found: dict[str, Any] = msgspec.to_builtins(node.statistics(model.name, model.version))
    return found


def _default(node: Node) -> Model | None:
    """The model of a plain /infer, if it can be asked."""
    try:
        return node.find(None, None)
    except ApiError:
        return None


def _rate(hits: int, requests: int) -> float:
    return round(hits / requests, 4) if requests else 0.0


def _gateways(node: Node) -> int:
    return sum(not stream.bulk for stream in node.gateways)
