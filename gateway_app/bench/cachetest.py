"""--cache-test: what the caches are worth to one client that asks one thing at a time."""

from __future__ import annotations

import random
import statistics
from dataclasses import dataclass
from typing import Any

from gateway_app.bench.load import Sender, Tally
from gateway_app.bench.workload import encode_inputs

REPEATS = 20
DISTINCT = 50


@dataclass(frozen=True, slots=True)
class Phase:
    """Median latency, and how many of the answers said `cached`; None and 0 if all of them failed."""

    requests: int
    median_ms: float | None
    cached: int


@dataclass(frozen=True, slots=True)
class CacheTest:
    """One input asked again and again, and a distinct set asked twice."""

    first: Phase
    repeated: Phase
    distinct_first: Phase
    distinct_again: Phase
    tally: Tally

    def as_dict(self) -> dict[str, Any]:
        return {
            "same_input": _pair(self.first, self.repeated),
            "distinct_set": _pair(self.distinct_first, self.distinct_again),
            "failures": self.tally.failed,
        }


def speed_up(before: Phase, after: Phase) -> float | None:
    return before.median_ms / after.median_ms if before.median_ms and after.median_ms else None


def _pair(before: Phase, after: Phase) -> dict[str, Any]:
    pair: dict[str, Any] = {
        name: {"requests": phase.requests, "median_ms": phase.median_ms, "cached": phase.cached}
        for name, phase in (("first", before), ("repeated", after))
    }
    return pair | {"speed_up": speed_up(before, after)}


def run_cache_test(gateway: str, values: int) -> CacheTest:
    """Its inputs are new on every run whatever the seed: one that a cache already knows would show nothing."""
    sender = Sender(f"{gateway}/infer")
    warm_up, same, *distinct = encode_inputs(2 + DISTINCT, values, random.Random())
    sender.ask("cache-warm-up", warm_up)  # so that the first timed request does not pay for the connection
    try:
        return CacheTest(
            first=_phase(sender, "first", [same]),
            repeated=_phase(sender, "repeated", [same] * REPEATS),
            distinct_first=_phase(sender, "distinct", distinct),
            distinct_again=_phase(sender, "again", distinct),
            tally=sender.tally,
        )
    finally:
        sender.close()


def _phase(sender: Sender, name: str, inputs: list[bytes]) -> Phase:
    seen, cached = sender.tally.successes, sender.tally.cached
    for index, encoded in enumerate(inputs):
        sender.ask(f"cache-{name}-{index}", encoded)
    latencies_s = sender.tally.latencies_s[seen:]
    median_ms = 1000 * statistics.median(latencies_s) if latencies_s else None
    return Phase(len(inputs), median_ms, sender.tally.cached - cached)
