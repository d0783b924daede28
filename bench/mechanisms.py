"""What each mechanism of the gateway gains: the simulated fleet with it on and off. `python bench/mechanisms.py`.

Some minutes; the same figures on every machine.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from xxhash import xxh3_64_intdigest

from bench.fleet import Costs, Fleet, Worker
from bench.zipf import WORKERS, zipf
from gateway_app.core import breaker, watch
from gateway_app.core.policy import Policy
from gateway_app.core.table import Table

Row = dict[str, str | float]
THREE = {f"worker_{number}": 1.0 for number in range(1, 4)}
# Nothing but what each scenario is about.
PLAIN = Policy(breaker=breaker.BreakerConfig(failure_threshold=10**9, error_ratio=0), hedging=False, slow_factor=0)


def fleet(policy: Policy, weights: dict[str, float], costs: Costs, *, joining: bool = True) -> Fleet:
    """Without a hot cache: it would hide the workers."""
    return Fleet(Table(weights, 150, xxh3_64_intdigest), policy, costs=costs, hot=False, joining=joining)


def steady(
    per_s: float, seconds: float, key: Callable[[random.Random], int], start_s: float = 0.0
) -> Iterator[tuple[float, int]]:
    """Requests that come independently of each other, for the inputs that `key` draws."""
    rng, at = random.Random(7 + start_s), start_s
    while (at := at + rng.expovariate(per_s)) < start_s + seconds:
        yield at, key(rng)


def new_input(rng: random.Random) -> int:
    """One that nobody has asked for."""
    return rng.getrandbits(60)


def latency(found: Fleet) -> Row:
    """The columns that most tables have."""
    tally = found.tally
    return {"p50 ms": tally.ms(50), "p99 ms": tally.ms(99), "p99.9 ms": tally.ms(99.9), "errors %": 100 * tally.errors}


def bounded_load(play: Callable[[Fleet], None], costs: Costs, joining: bool) -> list[Row]:
    """Ten workers, counted from the fourth second on."""
    rows: list[Row] = []
    for factor, floor in ((0.0, 0), (1.25, 8), (1.5, 8), (2.0, 8), (1.5, 16), (1.25, 32)):
        policy = replace(PLAIN, load_factor=factor, load_floor=floor)
        found = fleet(policy, WORKERS, costs, joining=joining)
        play(found)
        found.events.run(4)
        found.tally.restart()
        found.events.run(10)
        average, moments = found.tally.unevenness()
        row: Row = {"bounded load": f"{factor:g} x the mean, floor {floor}" if factor else "off"}
        row |= {"in flight max/mean": average, "its p99": moments, "highest": found.tally.peak()}
        rows.append(row | {"hits %": 100 * found.tally.share("hit")} | latency(found))
    return rows


def hot_input(found: Fleet) -> None:
    """One large input is half of 2,400 requests/s: hits that cost a worker 1 ms each, too large for the hot cache."""
    found.play(steady(2400, 10, lambda rng: 0 if rng.random() < 0.5 else rng.randrange(1, 5000)))


def slow_worker(found: Fleet) -> None:
    """New inputs at half of what ten workers can do; one of them is three times slower, as on a busy machine."""
    found.workers["worker_1"].slow = 3.0
    found.play(steady(4000, 10, new_input))


def joining() -> list[Row]:
    """A thousand identical requests at once, for an input that is in no cache."""
    rows: list[Row] = []
    for factor, on in product((1.25, 0.0), (True, False)):
        found = fleet(replace(PLAIN, load_factor=factor), THREE, Costs(), joining=on)
        for _ in range(1000):
            found.infer(1)
        found.events.run(5)
        row: Row = {"joining": "on" if on else "off", "bounded load": factor or "off"}
        row |= {"sent to workers": found.sent, "inferences": found.inferences}
        rows.append(row | latency(found))
    return rows


def slow_start(slow: float) -> list[Row]:
    """One of ten workers returns after 4 s with an empty cache, at 70 % of what the engines can do: the 4 s after it.

    For the first second its engine takes `slow` times as long.
    """
    rows: list[Row] = []
    for factor, ramp_s in product((1.25, 1.5, 0.0), (0.0, 2.0, 5.0, 10.0)):
        policy = replace(PLAIN, load_factor=factor, slow_start_s=ramp_s)
        found = fleet(policy, WORKERS, Costs(batch_s=16e-3, sample_s=4e-3))
        back, route = found.workers["worker_1"], found.router.routes["worker_1"]
        found.router.presence.came_up(route, "the first process")
        found.play(zipf(130_000, 10_000))
        found.events.run(5)
        route.up = False
        found.events.run(9)
        back.results.clear()
        before = found.inferences
        found.router.presence.came_up(route, "the second process")
        found.tally.restart()
        longest = 0
        for step in range(400):
            back.slow = slow if step < 100 else 1.0
            found.events.run(9 + step / 100)
            longest = max(longest, len(back.batcher))
        row: Row = {"slow start": f"{ramp_s:g} s" if ramp_s else "off", "bounded load": factor or "off"}
        row |= {"its longest queue": longest, "computed %": 100 * (found.inferences - before) / found.tally.requests}
        rows.append(row | latency(found))
    return rows


def hedging(stalls: float, slow: float) -> list[Row]:
    """New inputs at 30 % of what three workers can do. Of one of them, this part of the batches takes 200 ms more, or
    all batches take so many times as long for 3 s."""
    rows: list[Row] = []
    for floor_s, slow_factor in product((None, 0.0, watch.HEDGE_FLOOR_S, 0.1), (0.0, 5.0)):
        found = fleet(replace(PLAIN, hedging=floor_s is not None, slow_factor=slow_factor), THREE, Costs())
        sick = found.workers["worker_1"]
        sick.stall_s = partial(_stall_s, random.Random(3), stalls)
        found.play(steady(800, 15, new_input))
        with patch.object(watch, "HEDGE_FLOOR_S", floor_s):
            found.events.run(5)
            found.tally.restart()
            sick.slow = slow
            found.events.run(8)
            sick.slow = 1.0
            found.events.run(16)
        row: Row = {"hedging": "off" if floor_s is None else f"after {floor_s * 1000:g} ms at least"}
        row |= {"slow workers": "off" if not slow_factor else f"{slow_factor:g} x"}
        rows.append(row | {"hedges %": 100 * found.router.hedges / found.tally.requests} | latency(found))
    return rows


def _stall_s(rng: random.Random, part: float) -> float:
    return 0.2 if rng.random() < part else 0.0


def retry_budget(fails: Callable[[Worker, random.Random], bool], peak_per_s: float) -> list[Row]:
    """Three workers at 60 % of what they can do, with a peak from the fifth to the seventh second; counted after it."""
    rows: list[Row] = []
    for ratio in (0.0, 0.2, 1.0):
        policy = replace(PLAIN, retry_ratio=ratio, load_factor=0)
        found = fleet(policy, THREE, Costs(take_s=1e-3, batch_s=0, sample_s=0))
        for worker in found.workers.values():
            worker.fails = partial(fails, worker, random.Random(worker.name))
        found.play(steady(1800, 40, new_input))
        found.play(steady(peak_per_s, 2, new_input, start_s=5))
        found.events.run(7)
        found.tally.restart()
        sent, last_error_s = found.sent, 0
        for second in range(1, 34):
            failed = found.tally.failed
            found.events.run(7 + second)
            last_error_s = second if found.tally.failed > failed else last_error_s
        row: Row = {"retries": f"{ratio:.0%}", "sent / requests": (found.sent - sent) / found.tally.requests}
        rows.append(row | {"last error after s": last_error_s} | latency(found))
    return rows


def doubled_wait() -> list[Row]:
    """A worker is sick for some time and not started again; ten requests come each second."""
    rows: list[Row] = []
    for sick_s, longest_s in product((20, 100, 600, 3600), (breaker.MAX_OPEN_S, 60.0, 30.0)):
        now_s, cost = 0.0, 0
        with patch.object(breaker, "MAX_OPEN_S", longest_s):
            found = breaker.Breaker(breaker.BreakerConfig(), lambda: now_s)  # noqa: B023
            while now_s < sick_s or found.state is not breaker.State.CLOSED:
                now_s += 0.1
                permit = found.acquire()
                if permit is not None and now_s < sick_s:
                    found.failure(permit, "it is sick")
                    cost += 1
                elif permit is not None:
                    found.success(permit)
        row: Row = {"sick for s": sick_s, "open for s": f"30 to {longest_s:g}"}
        rows.append(row | {"requests it cost": cost, "back after s": now_s - sick_s})
    return rows


SCENARIOS: dict[str, Callable[[], list[Row]]] = {
    "bounded load: one input is 132 % of what its owner can do": lambda: bounded_load(
        hot_input, Costs(take_s=1e-3), joining=True
    ),
    "bounded load: the same, without joining": lambda: bounded_load(hot_input, Costs(take_s=1e-3), joining=False),
    "bounded load: a worker is three times slower": lambda: bounded_load(slow_worker, Costs(), joining=True),
    "joining": joining,
    "slow start: a worker returns with an empty cache": lambda: slow_start(1),
    "slow start: and is three times slower for a second": lambda: slow_start(3),
    "hedging: one of 50 batches of one worker stalls for 200 ms": lambda: hedging(stalls=0.02, slow=1),
    "hedging: a worker is ten times slower for 3 s": lambda: hedging(stalls=0, slow=10),
    "retry budget: every worker fails half of all requests": lambda: retry_budget(
        lambda worker, rng: rng.random() < 0.5, peak_per_s=1
    ),
    "retry budget: after a peak, workers fail what has waited for 50 ms": lambda: retry_budget(
        lambda worker, rng: worker.backlog_s > 0.05, peak_per_s=2000
    ),
    "doubled wait of a breaker": doubled_wait,
}


def markdown(rows: list[Row]) -> str:
    """A table of rows that have the same columns."""
    lines = [f"| {' | '.join(rows[0])} |", "|---" * len(rows[0]) + "|"]
    for row in rows:
        cells = (f"{value:.4g}" if isinstance(value, float) else str(value) for value in row.values())
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Runs them all, or those whose name contains a word."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("only", nargs="?", default="", help="a part of a scenario's name")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    chosen = {name: scenario for name, scenario in SCENARIOS.items() if options.only in name}
    if not chosen:
        parser.error(f"no scenario has {options.only!r} in its name; there are: {'; '.join(SCENARIOS)}")
    found: dict[str, list[Row]] = {}
    for name, scenario in chosen.items():
        found[name] = scenario()
        if not options.json:
            print(f"\n**{name}**\n\n{markdown(found[name])}", flush=True)
    if options.json:
        print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
