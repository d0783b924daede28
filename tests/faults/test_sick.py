"""Rows 5, 6, 7, 10, 11 and 13: workers that hang, crawl or fail, and inputs that are to blame."""

import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from xxhash import xxh3_64_intdigest

from gateway_app.core.table import Table
from inference_site.lib.asks import key_of, seed_of
from tests.faults.figures import FULL, Figures, scaled
from tests.faults.sickbay import CAPACITY, N_IN, USUAL, Sickbay, deadly
from tests.support.burst import burst
from tests.support.load import Case
from tests.support.openload import OpenLoad
from tests.support.processes import wait_until
from tests.support.waiting import PATIENCE_S
from tests.support.wire import Wire, request

Fresh = Callable[[int], list[Case]]
VICTIM = "worker_2"
CASES = 20_000


@pytest.mark.row(5)
def test_a_stopped_worker_is_suspected_and_its_late_answers_dropped(
    fleet: Sickbay, fresh: Fresh, figures: Figures
) -> None:
    with (
        # A request is given up by its second worker too if that is silent for so long.
        fleet.tuned(silence_ms=scaled(4_000, 300)),
        OpenLoad(fleet.gateway_url, fresh(CASES), rate=USUAL) as load,
    ):
        load.wait_for(50)
        time.sleep(scaled(0, 10))
        opens = fleet.opens(VICTIM)
        os.kill(fleet.pid(VICTIM), signal.SIGSTOP)
        stopped = time.monotonic()
        try:
            fleet.wait_until_opened(VICTIM, opens)
            suspected_s = time.monotonic() - stopped
            load.wait_for(50)
            time.sleep(scaled(0, 20))
        finally:
            os.kill(fleet.pid(VICTIM), signal.SIGCONT)
        load.wait_for_node(VICTIM)
        fleet.wait_until_closed(VICTIM)
        load.wait_for(50)
        time.sleep(scaled(0, 10))
    load.report.assert_no_failure()
    wait_until("nothing is in flight", lambda: fleet.stats()["gateway"]["in_flight"] == 0)
    figures.say(f"0 failed of {len(load.report.answers):,}")
    figures.aim(suspected_s <= 1, f"suspected after {suspected_s:.1f} s")
    figures.say(f"slowest answer {max(each.latency_s for each in load.report.answers):.1f} s")


@pytest.mark.row(6)
def test_a_slow_worker_is_passed_over(fleet: Sickbay, fresh: Fresh, figures: Figures) -> None:
    # Each time that it is tried again costs some requests: as seldom as by default, or never. So slow that on a busy
    # machine too it is slow beside the others, who do not answer for it.
    tuning = (
        {"open_seconds": 30} if FULL else {"open_seconds": 3600, "slow_factor": 5, "hedging": False, "check_seconds": 0}
    )
    with fleet.tuned(**tuning), OpenLoad(fleet.gateway_url, fresh(2 * CASES), rate=USUAL) as load:
        load.wait_for(100)
        time.sleep(scaled(0, 20))
        opens = fleet.opens(VICTIM)
        slow = time.monotonic()
        fleet.sicken(VICTIM, slower=scaled(40, 10))
        fleet.wait_until_opened(VICTIM, opens)
        assert "half of its answers take over" in fleet.breaker(VICTIM)["last_error"]
        passed_over = time.monotonic()
        load.wait_for(100)
        time.sleep(scaled(0, 5 + 20))
    report = load.report
    report.assert_no_failure()
    before, after = report.quantile_ms(0.99, until=slow - 1), report.quantile_ms(0.99, since=slow + 5)
    worst = report.quantile_ms(0.99, since=slow, until=slow + 5)
    later = report.nodes(since=passed_over)
    share = later[VICTIM] / later.total()
    figures.aim(after <= 2 * before, f"p99 {before:.0f} ms → {after:.0f} ms (first 5 s: {worst:.0f} ms)")
    figures.say(f"its share {share:.0%}", "0 failed")
    assert share < (0.25 if FULL else 1e-9)


@pytest.mark.row(7)
def test_a_worker_that_fails_at_random_is_tripped(fleet: Sickbay, fresh: Fresh, figures: Figures) -> None:
    with OpenLoad(fleet.gateway_url, fresh(5_000), rate=50) as load:
        load.wait_for(50)
        opens = fleet.opens(VICTIM)
        fleet.sicken(VICTIM, fail=0.3)
        sick = time.monotonic()
        wait_until("its breaker opens for its failures", lambda: tripped(fleet, opens))
        tripped_s = time.monotonic() - sick
        load.wait_for(int(scaled(200, 3_000)), 200.0)
    report = load.report
    seen = len(report.failures) / (len(report.answers) + len(report.failures))
    figures.say(f"{len(report.failures)} of {load.sent:,} clients saw an error")
    figures.aim(tripped_s <= 5, f"tripped after {tripped_s:.1f} s")
    assert seen < 0.001, report.failures[:3]


def tripped(fleet: Sickbay, opens: int) -> bool:
    breaker = fleet.breaker(VICTIM)
    return breaker["opens"] > opens and "the device is broken" in breaker["last_error"]


@pytest.mark.row(10)
def test_an_input_that_kills_workers_is_refused(fleet: Sickbay, fresh: Fresh, figures: Figures) -> None:
    values = deadly()
    # What is asked of two workers at once, because the first one takes long, ends both before there is a suspicion, and
    # may end a third one that it is tried with alone.
    with (
        fleet.tuned(hedging=FULL),
        OpenLoad(fleet.gateway_url, fresh(CASES), rate=CAPACITY / 6) as load,
    ):
        load.wait_for(100)
        first = fleet.infer(values)
        second = fleet.infer(values)
        wait_until("both are gone", lambda: sum(not fleet.alive(name) for name in fleet.names) >= 2)
        began = time.monotonic()
        third = fleet.infer(values)
        third_ms = (time.monotonic() - began) * 1000
        load.wait_for(100)
        lost = revive(fleet, load)
        fourth = fleet.infer(values)
        if FULL and fourth[0] == 503:
            lost += revive(fleet, load)
            fourth = fleet.infer(values)
    assert {first[0], second[0], third[0]} <= {422, 503}, (first, second, third)
    assert fourth[0] == 422, fourth
    assert all(fleet.alive(name) for name in fleet.names)
    assert len(lost) == 2 or (FULL and len(lost) == 3)
    load.report.assert_no_failure()
    figures.aim(len(lost) == 2, f"{len(lost)} workers lost")
    figures.say(f"third arrival: {third[0]} {third[1]['code']} in {third_ms:.0f} ms", "0 failed")


def revive(fleet: Sickbay, load: OpenLoad) -> list[str]:
    """A new process in the place of each that has ended: it was not the connection alone. Which these are."""
    lost = [name for name in fleet.names if not fleet.alive(name)]
    for name in lost:
        fleet.start(name, wait=False)
    for name in lost:
        load.wait_for_node(name)
    return lost


@pytest.mark.row(11)
def test_one_bad_item_in_a_full_batch_fails_alone(fleet: Sickbay, fresh: Fresh, figures: Figures) -> None:
    table = Table(dict.fromkeys(fleet.names, 1.0), 150, xxh3_64_intdigest, 1.02)
    bad = Case(f"[{5000 + time.monotonic() % 1000}{', 0.5' * (N_IN - 1)}]".encode(), None, 422, "model_refused_input")
    seed = seed_of(fleet.model.stem, "1")
    owner = table.owners(key_of(bad.text, seed))[0]
    theirs = [case for case in fresh(400) if table.owners(key_of(case.text, seed))[0] == owner]
    # None is passed on, because the owner has so many or is slow, and nothing runs but these.
    with fleet.tuned(load_factor=0, hedging=False, check_seconds=0), ThreadPoolExecutor(2) as pool:
        breakers = breakers_of(fleet)
        before = fleet.health(owner)["batch_processor"]
        with fleet.held(owner):  # while one is about to run, the others gather
            first = pool.submit(burst, fleet.gateway_url, theirs[31:32])
            wait_until("it runs", lambda: has_taken(fleet, owner, before["total_batches"] + 1))
            others = pool.submit(burst, fleet.gateway_url, [*theirs[:16], bad, *theirs[16:31]])
            wait_until("all have come", lambda: fleet.health(owner)["queue"] == 32)
        first.result().assert_no_failure()
        report = others.result()
        full = fleet.health(owner)["batch_processor"]["full_batches"] - before["full_batches"]
        assert breakers_of(fleet) == breakers
    report.assert_no_failure()
    assert report.statuses == {200: 31, 422: 1}
    assert full >= 1, "the 32 did not run as one batch"
    figures.say("31 × 200, 1 × 422 model_refused_input")


def has_taken(fleet: Sickbay, name: str, batches: int) -> bool:
    """Whether a worker has taken so many batches from its queue, the one that is about to run among them."""
    return bool(fleet.health(name)["batch_processor"]["total_batches"] >= batches)


def breakers_of(fleet: Sickbay) -> dict[str, tuple[str, int, int]]:
    """Of each worker the state, how many failures there were in a row, and how often it has opened."""
    found = fleet.stats()["circuit_breakers"]
    return {each["name"]: (each["state"], each["failures"], each["opens"]) for each in found}


def malformed() -> list[bytes]:
    values = [
        "[]",
        "{}",
        '["1"]',
        "[1,",
        "[NaN]",
        "[1e999]",
        f"[{'1,' * N_IN}1]",
        "[1e300]",
        f"[9999{',0' * (N_IN - 1)}]",
    ]
    bodies = [f'{{"request_id":"x","input_data":{each}}}'.encode() for each in values]
    return [*bodies, b"", b"nonsense", b'{"request_id":7,"input_data":[1]}', b"\xff\xfe"]


@pytest.mark.row(13)
def test_malformed_requests_open_no_breaker(fleet: Sickbay, figures: Figures) -> None:
    bodies = malformed()
    for name in fleet.names:
        fleet.sicken(name, run_ms=1)  # what only the model can refuse is run several times
    with fleet.tuned(check_seconds=0), Wire(*fleet.gateway_address, timeout_s=PATIENCE_S) as wire:
        breakers = breakers_of(fleet)
        statuses = [wire.ask(request("POST", "/infer", bodies[number % len(bodies)])).status for number in range(500)]
        assert set(statuses) <= {400, 422}
        assert breakers_of(fleet) == breakers
    figures.say("500 × 4xx, every breaker closed")
