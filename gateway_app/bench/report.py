"""The figures of a run: as one JSON object, and as the text printed from that same object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gateway_app.bench.cachetest import CacheTest
from gateway_app.bench.load import LoadResult
from gateway_app.bench.workers import WorkerFigures

CLIENT_BOUND = 0.85


@dataclass(frozen=True, slots=True)
class Plan:
    """What was asked for."""

    gateway: str
    requests: int
    threads: int
    distinct: int
    values: int
    seed: int


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The percentile of an ascending, non-empty sequence, linear between neighbours (numpy's default)."""
    position = (len(ordered) - 1) * percent / 100
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


def latency_figures(latencies_s: Sequence[float]) -> dict[str, float] | None:
    """Milliseconds; None if nothing succeeded."""
    if not latencies_s:
        return None
    ordered = sorted(1000 * value for value in latencies_s)
    figures = {
        "min": ordered[0],
        "mean": sum(ordered) / len(ordered),
        "median": percentile(ordered, 50),
        "p90": percentile(ordered, 90),
        "p95": percentile(ordered, 95),
        "p99": percentile(ordered, 99),
        "max": ordered[-1],
    }
    return {name: round(value, 3) for name, value in figures.items()}


def load_figures(load: LoadResult) -> dict[str, Any]:
    tally = load.tally
    total = tally.successes + tally.failed
    return {
        "total_requests": total,
        "successes": tally.successes,
        "failures": tally.failed,
        "success_rate": tally.successes / total if total else 0.0,
        "total_time_s": round(load.wall_s, 4),
        # of successes: a gateway that refuses quickly is not a fast one
        "requests_per_s": round(tally.successes / load.wall_s, 2) if load.wall_s else 0.0,
        "latency_ms": latency_figures(tally.latencies_s),
        "cached_replies": tally.cached,
        "cached_share": tally.cached / tally.successes if tally.successes else 0.0,
        "node_share": {
            node: {"requests": count, "share": count / tally.successes} for node, count in sorted(tally.nodes.items())
        },
        "errors": [
            {"cause": cause, "count": count, "first_message": tally.first_messages[cause]}
            for cause, count in tally.failures.most_common()
        ],
        "client_cpu_share": round(load.cpu_s / load.wall_s, 3) if load.wall_s else 0.0,
        "interrupted": load.interrupted,
    }


def build_report(
    plan: Plan, load: LoadResult | None, workers: list[WorkerFigures] | None, cache_test: CacheTest | None
) -> dict[str, Any]:
    """All figures of a run; `workers` is None with --no-stats, `load` None for a cache test alone."""
    report: dict[str, Any] = {
        "gateway": plan.gateway,
        "requests": plan.requests,
        "threads": plan.threads,
        "distinct": plan.distinct,
        "values": plan.values,
        "seed": plan.seed,
    }
    if load is not None:
        report |= load_figures(load)
    report["workers"] = None
    if workers is not None:
        report["workers"] = [
            {
                "node_id": worker.node_id,
                "url": worker.url,
                "requests": worker.requests,
                "cache_hits": worker.cache_hits,
                "hit_rate": worker.hit_rate,
                "problem": worker.problem,
            }
            for worker in workers
        ]
    report["cache_test"] = cache_test.as_dict() if cache_test else None
    return report


def render(report: dict[str, Any]) -> str:
    lines = [
        f"Benchmark of {report['gateway']}: {report['requests']:,} requests, {report['threads']} threads, "
        f"{report['distinct']:,} distinct inputs of {report['values']} values (--seed {report['seed']})"
    ]
    if report["cache_test"]:
        lines += _render_cache_test(report["cache_test"])
    if "total_requests" in report:
        lines += _render_load(report)
    if report["workers"]:
        lines += _render_workers(report["workers"])
    return "\n".join(lines)


def _render_load(report: dict[str, Any]) -> list[str]:
    lines = [
        "",
        "Load" + (" (interrupted: what was measured until then)" if report["interrupted"] else ""),
        f"  Total requests   {report['total_requests']:,}",
        f"  Successes        {report['successes']:,} ({100 * report['success_rate']:.2f} %)",
        f"  Total time       {report['total_time_s']:.2f} s",
        f"  Requests/sec     {report['requests_per_s']:,.2f}",
        f"  Cached replies   {report['cached_replies']:,} ({100 * report['cached_share']:.1f} %)",
    ]
    if latency := report["latency_ms"]:
        lines += ["", "Latency (ms)"]
        names = {
            "mean": "Mean",
            "median": "Median",
            "p90": "P90",
            "p95": "P95",
            "p99": "P99",
            "min": "Min",
            "max": "Max",
        }
        lines += [f"  {label:<16} {latency[name]:.2f}" for name, label in names.items()]
    if report["node_share"]:
        lines += ["", "Share of requests"]
        lines += [
            f"  {node:<16} {100 * row['share']:5.1f} %  {row['requests']:,}"
            for node, row in report["node_share"].items()
        ]
    if report["errors"]:
        lines += ["", "Failures"]
        lines += [f"  {row['count']:,} × {row['cause']}, first: {row['first_message']}" for row in report["errors"]]
    if report["client_cpu_share"] > CLIENT_BOUND:
        share = 100 * report["client_cpu_share"]
        lines += ["", f"This client used {share:.0f} % of a core: it may be the bottleneck, the gateway can do more."]
    return lines


def _render_workers(workers: list[dict[str, Any]]) -> list[str]:
    lines = ["", "Workers (their own counts; answers from the gateway's cache never reach them)"]
    for row in workers:
        if not row["node_id"]:
            lines.append(f"  no figures from {row['problem']}")
            continue
        rate = "no requests" if row["hit_rate"] is None else f"hit rate {100 * row['hit_rate']:.1f} %"
        note = f"  ({row['problem']})" if row["problem"] else ""
        lines.append(f"  {row['node_id']:<16} {row['requests']:,} requests, {rate}{note}")
    return lines


def _render_cache_test(test: dict[str, Any]) -> list[str]:
    lines = ["", "Cache test"]
    for key, label in (("same_input", "Same input"), ("distinct_set", "Distinct set, twice")):
        pair = test[key]
        lines.append(f"  {label}")
        for name in ("first", "repeated"):
            phase = pair[name]
            median = "all failed" if phase["median_ms"] is None else f"median {phase['median_ms']:.2f} ms"
            lines.append(f"    {name:<10} {median}, cached {phase['cached']} of {phase['requests']}")
        if pair["speed_up"] is not None:
            lines.append(f"    speed-up   {pair['speed_up']:.1f} ×")
    return lines
