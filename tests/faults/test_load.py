"""Rows 17 to 20 and 28: more than there is room for, everybody wanting the same, and clients that leave."""

import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.faults.figures import FULL, Figures, scaled
from tests.faults.proxy import Proxies
from tests.faults.sickbay import BATCH, CAPACITY, N_IN, USUAL, Sickbay
from tests.support.burst import burst
from tests.support.load import Case, Load, Report
from tests.support.openload import OpenLoad
from tests.support.processes import wait_until
from tests.support.waiting import PATIENCE_S
from tests.support.wire import Wire, reset

Fresh = Callable[[int], list[Case]]


def goodput(report: Report, since: float, until: float) -> float:
    """Requests per second that were answered with 200 between two moments, whenever they were sent."""
    return sum(since <= each.began + each.latency_s < until for each in report.answers if each.status == 200) / (
        until - since
    )


@pytest.mark.row(17)
def test_overload_is_refused_and_passes(fleet: Sickbay, fresh: Fresh, figures: Figures) -> None:
    cases = fresh(int(scaled(20_000, 150_000)))
    slower = scaled(4, 1)  # so that a machine that does much else can overload them
    for name in fleet.names:
        fleet.sicken(name, slower=slower)
    with fleet.tuned(queue_ms=2_000):
        # As many clients as keep every worker's next batch full, each waiting for its answer: the peak.
        with Load(fleet.gateway_url, cases, connections=192, allow_503=True) as peak_load:
            time.sleep(1)
            since = time.monotonic()
            time.sleep(scaled(1, 10))
            peak = goodput(peak_load.report, since, time.monotonic())
        wait_until("nothing is in flight", lambda: fleet.stats()["gateway"]["in_flight"] == 0)
        opens = fleet.all_opens()
        with OpenLoad(fleet.gateway_url, cases[::-1], rate=3 * CAPACITY / slower, allow_503=True) as load:
            began = time.monotonic()
            time.sleep(scaled(3, 60))
            wait_until("some are refused", lambda: load.report.statuses[503] > 100)
            over = time.monotonic()
            load.rate = USUAL / slower
            wait_until("it has passed", lambda: only_200(load.report, over))
            time.sleep(scaled(0, 5 + 10))
        assert fleet.all_opens() == opens, "overload is no illness"
    report = load.report
    peak_load.report.assert_no_failure()
    report.assert_no_failure()
    good = goodput(report, began + 1, over)
    refused = report.quantile_ms(0.99, since=began + 1, until=over, status=503)
    still = sum(each.status == 503 for each in report.between(over + 5))
    late = report.quantile_ms(0.99, since=over + 5)
    figures.aim(good >= 0.9 * peak, f"goodput {good / peak:.0%} of {peak:.0f}/s" if peak else "no peak")
    client = report.lateness_ms(0.99, since=began + 1, until=over)
    figures.aim(refused < 10, f"refusals p99 {refused:.0f} ms, of which the client itself was late {client:.0f} ms")
    figures.aim(still == 0, f"5 s later {still} refused, p99 {late:.0f} ms")
    # What was let in meanwhile was answered: at least what runs, and a full batch that waits, in each worker.
    assert sum(each.status == 200 for each in report.between(began, over)) >= 2 * BATCH * len(fleet.names)
    assert good > 0.3 * peak or not FULL


def only_200(report: Report, since: float) -> bool:
    """Whether the newest answers to what was sent since then are 20, and all are 200."""
    newest = [each.status for each in report.between(since)][-20:]
    return newest == [200] * 20


@pytest.mark.row(18)
def test_identical_requests_are_one_inference(proxied: tuple[Sickbay, Proxies], fresh: Fresh, figures: Figures) -> None:
    fleet, proxies = proxied
    count = int(scaled(300, 1000))
    (case,) = fresh(1)
    # No second worker is asked because the first one takes long.
    with fleet.tuned(hedging=False, request_timeout_ms=200_000), ThreadPoolExecutor(1) as pool:
        with fleet.held():  # until all that come have come
            joined = fleet.stats()["gateway"]["joined"]
            answers = pool.submit(burst, fleet.gateway_url, [case] * count, leave=1, leave_after_s=0.02)
            wait_until("all others have joined", lambda: fleet.stats()["gateway"]["joined"] >= joined + count - 2)
        report = answers.result()
    report.assert_no_failure()
    asked = sum(proxy.asked[case.text] for proxy in proxies.of.values())
    figures.say(f"{asked} inference", f"{report.statuses[200]} × 200 of {count - 1}")
    assert report.statuses == {200: count - 1}
    assert asked == 1


@pytest.mark.row(19)
@pytest.mark.parametrize("hot_cache", [True, False])
def test_one_key_that_is_half_of_the_traffic(
    proxied: tuple[Sickbay, Proxies], fresh: Fresh, figures: Figures, hot_cache: bool
) -> None:
    fleet, proxies = proxied
    cases = fresh(20_000)
    cases[::2] = [cases[0]] * len(cases[::2])
    slower = scaled(3, 1)
    for name in fleet.names:
        fleet.sicken(name, slower=slower)
    # Every request that reaches a worker is work.
    with (
        fleet.tuned(hot_cache=hot_cache, cache_entries=0),
        OpenLoad(fleet.gateway_url, cases, rate=0.9 * CAPACITY / slower, allow_503=True) as load,
    ):
        load.wait_for(100)
        for _ in range(20):  # who is stopped for a moment by the machine has more in flight than the others
            ratio = unevenness(proxies, scaled(1.5, 30))
            if ratio < 2:
                break
    load.report.assert_no_failure()
    figures.aim(ratio <= 1.5, f"max/mean in flight {ratio:.2f} {'with' if hot_cache else 'without'} the hot cache")
    assert ratio < 2


def unevenness(proxies: Proxies, seconds: float) -> float:
    """Of what the workers have in flight over some time, the largest to the mean."""
    sums = dict.fromkeys(proxies.of, 0)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for name, proxy in proxies.of.items():
            sums[name] += proxy.outstanding
        time.sleep(0.005)
    return max(sums.values()) * len(sums) / max(1, sum(sums.values()))


def zipf(pool: list[Case], count: int, seed: int) -> list[Case]:
    """This many draws of the pool, the n-th of it with a chance in proportion to n^-1.1."""
    chances = np.arange(1, len(pool) + 1) ** -1.1
    return [pool[place] for place in np.random.default_rng(seed).choice(len(pool), count, p=chances / chances.sum())]


def owners(fleet: Sickbay, pool: list[Case]) -> list[str]:
    """Who answers each case."""
    report = Load(fleet.gateway_url, pool, connections=16, total=len(pool))
    with report as load:
        found = {each.case: each.node for each in load.finish().answers}
    report.report.assert_no_failure()
    return [found[place] for place in range(len(pool))]


def hit_rate(report: Report, since: float, until: float) -> float:
    hits = Counter(each.cached for each in report.between(since, until))
    return hits[True] / hits.total() if hits else 0.0


@pytest.mark.row(20)
def test_few_keys_move_when_a_worker_leaves_or_joins(fleet: Sickbay, fresh: Fresh, figures: Figures) -> None:
    pool = fresh(int(scaled(600, 3000)))
    traffic = zipf(pool, 50_000, seed=1)
    for name in fleet.names:
        fleet.sicken(name, run_ms=5)
    with (
        # Else others than the owner may answer too.
        fleet.tuned(hot_cache=False, load_factor=0, hedging=False),
        OpenLoad(fleet.gateway_url, traffic, rate=scaled(100, 400)) as load,
    ):
        before = owners(fleet, pool)
        since = time.monotonic()
        load.wait_for(100)
        time.sleep(scaled(0, 20))
        left = time.monotonic()
        usual = hit_rate(load.report, since, left)
        fleet.change_worker("worker_3", enabled=False)
        wait_until("it is gone", lambda: not fleet.worker("worker_3")["connected"])
        without = owners(fleet, pool)
        fleet.change_worker("worker_3", enabled=True)
        fleet.wait_until_connected()
        joined = time.monotonic()
        again = owners(fleet, pool)
        wait_until("the hit rate is back", lambda: back(load.report, joined, usual))
        back_s = time.monotonic() - joined
    load.report.assert_no_failure()
    gone = sum(one != other for one, other in zip(before, without, strict=True)) / len(pool)
    moved = [owner for owner, other in zip(before, without, strict=True) if owner != other]
    assert set(moved) == {"worker_3"}
    assert again == before
    # The sample of keys is finite: 4 standard deviations of a share of a third.
    assert gone <= 1.2 / 3 + 4 * (2 / 9 / len(pool)) ** 0.5
    figures.say(f"{gone * 3:.2f}/N of the keys moved", f"hit rate {usual:.0%} back after {back_s:.0f} s", "0 failed")


def back(report: Report, since: float, usual: float) -> bool:
    """Whether the last second's hit rate is 95 % of the usual one."""
    now = time.monotonic()
    return now > since + 1 and hit_rate(report, now - 1, now) >= 0.95 * usual


@pytest.mark.row(28)
def test_clients_that_leave_take_their_work_along(
    proxied: tuple[Sickbay, Proxies], fresh: Fresh, figures: Figures
) -> None:
    fleet, proxies = proxied
    opens = fleet.all_opens()
    at_once = 250
    waves = int(scaled(2, 40))
    asked = 0
    # What runs when they leave is run to its end: that is to be little. Nothing runs but what they ask for.
    with fleet.tuned(batch_size=4, queue_ms=30_000, hedging=False, check_seconds=0):
        before = sum(rows_run(fleet, name) for name in fleet.names)
        for _ in range(waves):
            proxies.reset()
            cases = fresh(at_once)
            with fleet.held():  # until all have come and gone
                wires = [Wire(*fleet.gateway_address, timeout_s=PATIENCE_S) for _ in cases]
                for number, (wire, case) in enumerate(zip(wires, cases, strict=True)):
                    wire.send(case.request(f"b{number}", "localhost"))
                wait_until("all have come", lambda: proxies.asked_in_all() >= at_once)
                for wire in wires:
                    reset(wire)
                wait_until("nothing is in flight", lambda: fleet.stats()["gateway"]["in_flight"] == 0)
                wait_until("the queues are empty", lambda: all(not fleet.health(name)["queue"] for name in fleet.names))
            asked += at_once
        for name in fleet.names:  # behind the last batch, which is in no queue
            assert fleet.infer([time.monotonic() % 1] * N_IN, url=fleet.worker_urls[name])[0] == 200
        ran = sum(rows_run(fleet, name) for name in fleet.names) - before - len(fleet.names)
    dropped = 1 - ran / asked
    figures.say(f"{waves * at_once:,} left", "in flight back to 0")
    figures.aim(dropped >= 0.9, f"{dropped:.0%} of the queued work dropped")
    assert fleet.all_opens() == opens
    assert dropped >= 0.9


def rows_run(fleet: Sickbay, name: str) -> int:
    """How many inputs a worker has run through its model."""
    (model,) = fleet.health(name)["models"]
    return int(model["statistics"]["inferences"])
