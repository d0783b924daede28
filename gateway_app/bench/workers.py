"""What the workers themselves counted during a run: their /health before and after, and the difference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import requests

from gateway_app.probe import Answer, ask, is_worker_health, worker_url


@dataclass(frozen=True, slots=True)
class WorkerFigures:
    """One worker's part; `hit_rate` is None if it had no request, `problem` is set if it could not be asked."""

    url: str
    node_id: str
    requests: int = 0
    cache_hits: int = 0
    problem: str = ""

    @property
    def hit_rate(self) -> float | None:
        return self.cache_hits / self.requests if self.requests else None


def known_workers(session: requests.Session, gateway: str) -> list[str]:
    """URLs of the enabled workers that the gateway's /stats lists; none if it does not say."""
    answer = ask(session, "GET", f"{gateway}/stats")
    rows = (answer.data or {}).get("workers") if answer.status == 200 else None
    return [worker_url(row["address"], gateway) for row in rows or [] if row.get("enabled", True)]


def ask_health(session: requests.Session, workers: Sequence[str]) -> dict[str, Answer]:
    return {url: ask(session, "GET", f"{url}/health") for url in workers}


def compare(before: dict[str, Answer], after: dict[str, Answer]) -> list[WorkerFigures]:
    """Each worker's own counts between the two; one that restarted meanwhile is counted from its start."""
    figures = []
    for url, then in before.items():
        now = after[url]
        if not is_worker_health(now.data) or now.data is None:
            figures.append(WorkerFigures(url, "", problem=f"{url}/health: {now.summary}"))
            continue
        start: dict[str, Any] = then.data if then.data is not None and is_worker_health(then.data) else {}
        total, hits = _counts(now.data)
        old_total, old_hits = _counts(start)
        if old_total > total or old_hits > hits or _uptime_s(now.data) < _uptime_s(start):
            problem = "restarted during the run: counts are since then"
        else:
            problem, total, hits = "", total - old_total, hits - old_hits
            if not start:
                problem = f"counts are since its start: before the run its /health gave {then.summary}"
        figures.append(WorkerFigures(url, str(now.data["node_id"]), total, hits, problem))
    return figures


def _uptime_s(health: dict[str, Any]) -> float:
    """0 for one that does not say."""
    return float(health.get("uptime_s", 0.0))


def _counts(health: dict[str, Any]) -> tuple[int, int]:
    return int(health.get("total_requests", 0)), int(health.get("cache_hits", 0))
