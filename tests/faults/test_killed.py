"""Rows 1 to 4: workers that are killed, and come back."""

import time
from collections.abc import Callable

import pytest

from tests.faults.figures import FULL, Figures, scaled
from tests.faults.proxy import Proxies
from tests.faults.sickbay import HALF, Sickbay
from tests.support.load import Case
from tests.support.openload import OpenLoad
from tests.support.processes import wait_until

Fresh = Callable[[int], list[Case]]
VICTIM = "worker_2"


@pytest.mark.row(1)
def test_a_killed_worker_costs_no_request(fleet: Sickbay, fresh: Fresh, figures: Figures) -> None:
    before_s, after_s = scaled(3, 20), scaled(2, 20)
    with OpenLoad(fleet.gateway_url, fresh(20_000), rate=HALF) as load:
        time.sleep(before_s)
        killed = time.monotonic()
        fleet.kill(VICTIM)
        wait_until("its breaker is open", lambda: fleet.breaker(VICTIM)["state"] == "OPEN")
        opened_s = time.monotonic() - killed
        time.sleep(max(0.0, 5 - opened_s) + after_s)
    report = load.report
    report.assert_no_failure()
    assert report.nodes(since=killed + 1)[VICTIM] == 0
    before, after = report.quantile_ms(0.99, until=killed - 1), report.quantile_ms(0.99, since=killed + 5)
    figures.say(f"0 failed of {len(report.answers):,}", f"open after {opened_s:.1f} s")
    figures.aim(after <= 1.2 * before, f"p99 {before:.0f} ms → {after:.0f} ms")


@pytest.mark.row(2)
def test_a_worker_that_returns_is_probed_and_then_trusted(
    proxied: tuple[Sickbay, Proxies], fresh: Fresh, figures: Figures
) -> None:
    fleet, proxies = proxied
    proxy = proxies.of[VICTIM]
    with OpenLoad(fleet.gateway_url, fresh(20_000), rate=HALF) as load:
        load.wait_for(50)
        fleet.kill(VICTIM)
        wait_until("its breaker is open", lambda: fleet.breaker(VICTIM)["state"] == "OPEN")
        proxy.reset()
        fleet.start(VICTIM)
        ready = time.monotonic()
        load.wait_for_node(VICTIM, 30.0)
        wait_until("its breaker is closed", lambda: fleet.breaker(VICTIM)["state"] == "CLOSED")
        back_s = time.monotonic() - ready
        load.wait_for(int(scaled(100, 5000)), 120.0)
    load.report.assert_no_failure()
    # Until two of its answers, be it to checks, are on their way to the gateway, the breaker can't have been closed.
    probes = max(outstanding for _, outstanding, results in proxy.events if results < 2)
    assert 1 <= probes <= 2
    figures.say(f"back after {back_s:.1f} s", f"at most {probes} probes at once", "0 failed")
    assert back_s < 10 or not FULL


@pytest.mark.row(3)
def test_what_one_worker_cannot_take_is_refused_at_once(fleet: Sickbay, fresh: Fresh, figures: Figures) -> None:
    with OpenLoad(fleet.gateway_url, fresh(40_000), rate=HALF, allow_503=True) as load:
        time.sleep(1)
        killed = time.monotonic()
        fleet.kill("worker_1")
        fleet.kill("worker_3")
        # One worker has two thirds of what comes: its queue must grow to its bound before anything is refused.
        wait_until("something is refused", lambda: load.report.statuses[503] > 20)
        refused_from = time.monotonic()
        time.sleep(scaled(2, 30))
    report = load.report
    report.assert_no_failure()
    answered = sum(each.status == 200 for each in report.between(killed))
    assert answered > 0
    p99 = report.quantile_ms(0.99, since=refused_from, status=503)
    figures.say(f"0 wrong of {answered:,} answered", f"{report.statuses[503]:,} refused")
    client = report.lateness_ms(0.99, since=refused_from)
    figures.aim(p99 < 10, f"refusals p99 {p99:.1f} ms, of which the client itself was late {client:.1f} ms")


@pytest.mark.row(4)
def test_all_killed_and_one_revived(fleet: Sickbay, fresh: Fresh, figures: Figures) -> None:
    with OpenLoad(fleet.gateway_url, fresh(20_000), rate=scaled(50, 200), allow_503=True) as load:
        load.wait_for(30)
        for name in fleet.names:
            fleet.kill(name)
        killed = time.monotonic()
        time.sleep(scaled(1, 20))
        revived = time.monotonic()
        fleet.start(VICTIM)
        ready = time.monotonic()
        load.wait_for_node(VICTIM, 30.0)
        wait_until("its breaker is closed", lambda: fleet.breaker(VICTIM)["state"] == "CLOSED")
    report = load.report
    report.assert_no_failure()
    meanwhile = {each.status for each in report.between(killed + 0.1, revived)}
    assert meanwhile == {503}
    first = min(each.began + each.latency_s for each in report.between(killed) if each.node == VICTIM)
    figures.say(f"{report.statuses[503]:,} × 503", f"first 200 {max(0.0, first - ready):.2f} s after it was ready")
    assert first - ready < scaled(15, 2)
