"""Ten workers with small caches under Zipf(1.1), simulated: this system beside a plain ring and round robin.

`python bench/zipf.py`, a minute or two; the same figures on every machine, by its seed. `make bench` runs it too.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from xxhash import xxh3_64_intdigest

from bench.fleet import Fleet
from gateway_app.core.call import Owners
from gateway_app.core.policy import Policy
from gateway_app.core.ring import Ring
from gateway_app.core.table import Table

WORKERS = {f"worker_{number}": 1.0 for number in range(1, 11)}
KEYS, EXPONENT = 100_000, 1.1
CACHE_ENTRIES = 1000
SEED = 20


class RoundRobin:
    """Owners that take turns, whatever the key."""

    def __init__(self, weights: dict[str, float]) -> None:
        self.weights = weights
        names = tuple(weights)
        self._turns = [names[start:] + names[:start] for start in range(len(names))]
        self._next = 0

    def owners(self, key: int) -> tuple[str, ...]:
        """The next one first."""
        self._next = (self._next + 1) % len(self._turns)
        return self._turns[self._next]


@dataclass(frozen=True, slots=True)
class System:
    """What is simulated: who owns a key, and which mechanisms are on."""

    label: str
    owners: str = "table"
    load_factor: float = 1.25
    cap: float = 1.02
    hot: bool = True
    joining: bool = True

    def fleet(self) -> Fleet:
        """A new one."""
        owners: Owners
        if self.owners == "table":
            owners = Table(WORKERS, 150, xxh3_64_intdigest, self.cap)
        elif self.owners == "ring":
            owners = Ring(WORKERS, 150, xxh3_64_intdigest)
        else:
            owners = RoundRobin(WORKERS)
        policy = replace(Policy(), load_factor=self.load_factor)
        return Fleet(owners, policy, cache_entries=CACHE_ENTRIES, hot=self.hot, joining=self.joining)


THIS = System("this system")
SYSTEMS = (
    THIS,
    System("plain ring", "ring", load_factor=0, hot=False, joining=False),
    System("round robin", "turns", load_factor=0, hot=False, joining=False),
    replace(THIS, label="this, no bounded load", load_factor=0),
    replace(THIS, label="this, no joining", joining=False),
    replace(THIS, label="this, no hot cache", hot=False),
    replace(THIS, label="this, no cap on shares", cap=0),
    replace(THIS, label="this, no table: its ring alone", owners="ring"),
)


@dataclass(frozen=True, slots=True)
class Result:
    """Shares are parts of all requests; latencies are milliseconds; in flight is max/mean of the workers."""

    system: str
    gateway_hits: float
    worker_hits: float
    joined: float
    computed: float
    errors: float
    in_flight: float
    in_flight_p99: float
    peak: int
    p50_ms: float
    p99_ms: float


def zipf(requests: int, per_s: float, seed: int = SEED, keys: int = KEYS) -> Iterator[tuple[float, int]]:
    """When, and for which of the keys, requests come: independently of each other."""
    rng = np.random.default_rng(seed)
    shares = np.arange(1, keys + 1) ** -EXPONENT
    # The most wanted keys are not the first ones by number.
    names = np.random.default_rng(SEED).permutation(keys)
    wanted = names[np.searchsorted(np.cumsum(shares) / shares.sum(), rng.random(requests))]
    return zip(np.cumsum(rng.exponential(1 / per_s, requests)).tolist(), wanted.tolist(), strict=True)


def simulate(system: System, requests: int, per_s: float) -> Result:
    """Half of the requests warm the caches, the other half are counted."""
    fleet = system.fleet()
    fleet.play(zipf(requests, per_s))
    warm_s, end_s = requests / 2 / per_s, requests / per_s
    fleet.events.run(warm_s)
    fleet.tally.restart()
    before = fleet.inferences
    fleet.events.run(end_s)
    tally = fleet.tally
    computed = (fleet.inferences - before) / tally.requests
    in_flight, in_flight_p99 = tally.unevenness()
    return Result(
        system=system.label,
        gateway_hits=tally.share("gateway"),
        worker_hits=tally.share("hit"),
        joined=tally.share("joined"),
        computed=computed,
        errors=tally.errors,
        in_flight=in_flight,
        in_flight_p99=in_flight_p99,
        peak=tally.peak(),
        p50_ms=tally.ms(50),
        p99_ms=tally.ms(99),
    )


def table(results: list[Result]) -> str:
    """As Markdown."""
    lines = [
        "| | hits: gateway, workers | joined | computed | in flight, max/mean: average, p99; highest | p50, p99 ms |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {each.system} | {each.gateway_hits:.1%}, {each.worker_hits:.1%} | {each.joined:.1%} | {each.computed:.1%} "
        f"| {each.in_flight:.2f}, {each.in_flight_p99:.2f}; {each.peak} | {each.p50_ms:.2f}, {each.p99_ms:.1f} |"
        for each in results
    ]
    return "\n".join(lines)


def main() -> None:
    """Runs them all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=300_000, help="for each system (default: %(default)s)")
    parser.add_argument("--per-s", type=float, default=25_000, help="how many a second (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    results = [simulate(system, options.requests, options.per_s) for system in SYSTEMS]
    print(json.dumps([asdict(each) for each in results], indent=1) if options.json else table(results))


if __name__ == "__main__":
    main()
