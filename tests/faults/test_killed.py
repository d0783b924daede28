"""Rows 1 to 4: workers that are killed, and come back."""

import time
from collections import Counter
from collections.abc import Callable

import pytest

from tests.faults.figures import FULL, Figures, scaled
from tests.faults.proxy import Proxies
from tests.faults.sickbay import HALF, USUAL, Sickbay
from tests.support.load import Case
from tests.support.openload import OpenLoad
from tests.support.processes import wait_until

Fresh = Callable[[int], list[Case]]
VICTIM = "worker_2"
CASES = 20_000


def statuses_of(load: OpenLoad, since: float) -> Counter[int]:
    """How many of the requests that began after this moment were answered with each status."""
    return Counter(each.status for each in load.report.between(since))


@pytest.mark.row(1)
def test_a_killed_worker_costs_no_request(fleet: Sickbay, fresh: Fresh, figures: Figures) -> None:
    opens = fleet.opens(VICTIM)
    with OpenLoad(fleet.gateway_url, fresh(CASES), rate=USUAL) as load:
        load.wait_for(100)
        time.sleep(scaled(0, 20))
        killed = time.monotonic()
        fleet.kill(VICTIM)
        gone = time.monotonic()
        fleet.wait_until_opened(VICTIM, opens)
        opened_s = time.monotonic() - killed
        time.sleep(scaled(0, 5 - min(5, opened_s) + 20))
        load.wait_for(200)
    report = load.report
    report.assert_no_failure()
    assert report.nodes(since=gone)[VICTIM] == 0
    before, after = report.quantile_ms(0.99, until=killed - 1), report.quantile_ms(0.99, since=killed + 5)
    figures.say(f"0 failed of {len(report.answers):,}", f"open after {opened_s:.1f} s")
    figures.aim(after <= 1.2 * before, f"p99 {before:.0f} ms → {after:.0f} ms")


@pytest.mark.row(2)
def test_a_worker_that_returns_is_probed_and_then_trusted(
    proxied: tuple[Sickbay, Proxies], fresh: Fresh, figures: Figures
) -> None:
    fleet, proxies = proxied
    proxy = proxies.of[VICTIM]
    with OpenLoad(fleet.gateway_url, fresh(CASES), rate=USUAL) as load:
        load.wait_for(50)
        # A probe that is given up is still with the worker when the next ones come: such a return shows nothing.
        for _ in range(5):
            opens = fleet.opens(VICTIM)
            fleet.kill(VICTIM)
            fleet.wait_until_opened(VICTIM, opens)
            proxy.reset()
            opens = fleet.opens(VICTIM)
            fleet.start(VICTIM)
            ready = time.monotonic()
            load.wait_for_node(VICTIM)
            fleet.wait_until_closed(VICTIM)
            back_s = time.monotonic() - ready
            if fleet.opens(VICTIM) == opens:
                break
        load.wait_for(int(scaled(100, 5000)), 200.0)
    load.report.assert_no_failure()
    # Until two of its answers, be it to checks, are on their way to the gateway, the breaker can't have been closed.
    probes = max(outstanding for _, outstanding, results in proxy.events if results < 2)
    assert 1 <= probes <= 2
    figures.say(f"back after {back_s:.1f} s", f"at most {probes} probes at once", "0 failed")
    assert back_s < 10 or not FULL


@pytest.mark.row(3)
def test_what_one_worker_cannot_take_is_refused_at_once(fleet: Sickbay, fresh: Fresh, figures: Figures) -> None:
    fleet.sicken("worker_2", slower=scaled(4, 1))
    with (
        fleet.tuned(queue_ms=2_000),
        OpenLoad(fleet.gateway_url, fresh(2 * CASES), rate=scaled(HALF / 2, HALF), allow_503=True) as load,
    ):
        load.wait_for(30)
        fleet.kill("worker_1")
        fleet.kill("worker_3")
        killed = time.monotonic()
        # One worker can do two thirds of what comes, or less: its queue must grow to its bound before one is refused.
        wait_until("something is refused", lambda: load.report.statuses[503] > 20)
        refused_from = time.monotonic()
        time.sleep(scaled(0, 30))
        wait_until("something is answered", lambda: statuses_of(load, killed)[200] > 0)
    report = load.report
    report.assert_no_failure()
    answered = statuses_of(load, killed)[200]
    p99 = report.quantile_ms(0.99, since=refused_from, status=503)
    figures.say(f"0 wrong of {answered:,} answered", f"{report.statuses[503]:,} refused")
    client = report.lateness_ms(0.99, since=refused_from)
    figures.aim(p99 < 10, f"refusals p99 {p99:.1f} ms, of which the client itself was late {client:.1f} ms")


@pytest.mark.row(4)
def test_all_killed_and_one_revived(fleet: Sickbay, fresh: Fresh, figures: Figures) -> None:
    with OpenLoad(fleet.gateway_url, fresh(CASES), rate=scaled(50, 200), allow_503=True) as load:
        load.wait_for(30)
        for name in fleet.names:
            fleet.kill(name)
        wait_until("it has noticed", lambda: not any(each["connected"] for each in fleet.stats()["workers"]))
        away = time.monotonic()
        wait_until("requests are refused", lambda: statuses_of(load, away)[503] >= 10)
        time.sleep(scaled(0, 20))
        revived = time.monotonic()
        fleet.start(VICTIM)
        ready = time.monotonic()
        load.wait_for_node(VICTIM)
        fleet.wait_until_closed(VICTIM)
    report = load.report
    report.assert_no_failure()
    meanwhile = [each for each in report.between(away, revived) if each.began + each.latency_s <= revived]
    assert {each.status for each in meanwhile} == {503}
    first = min(each.began + each.latency_s for each in report.between(away) if each.node == VICTIM)
    figures.say(f"{report.statuses[503]:,} × 503", f"first 200 {max(0.0, first - ready):.2f} s after it was ready")
    assert first - ready < 2 or not FULL
