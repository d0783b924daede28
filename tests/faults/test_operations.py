"""Rows 23 to 25 and 30: the clock is set, the configuration changes, everything restarts, and all of it for long."""

import os
import random
import signal
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path

import pytest
import requests

from tests.e2e.adminsite import AdminSite
from tests.faults.figures import FULL, Figures, scaled
from tests.faults.measures import descriptors, resident_kb
from tests.faults.sickbay import CAPACITY, USUAL, Sickbay
from tests.support import onnx_models
from tests.support.cluster import Cluster
from tests.support.fleet import PASSWORD, USER
from tests.support.load import Case, Load, Oracle
from tests.support.openload import OpenLoad
from tests.support.processes import wait_until
from tests.support.unhurried import unhurry
from tests.support.waiting import PATIENCE_S

Fresh = Callable[[int], list[Case]]
VICTIM = "worker_2"
HOUR_S = 3600.0


def set_clocks(fleet: Sickbay, by_s: float) -> None:
    for name in (*fleet.names, "gateway"):
        fleet.sicken(name, wall_s=by_s)


def clock_is_off(fleet: Sickbay, by_s: float) -> bool:
    """Whether the gateway's wall clock is: Django says in Expires when it made a page that must not be kept."""
    page = requests.get(f"{fleet.gateway_url}/admin/login/", timeout=PATIENCE_S)
    return abs(parsedate_to_datetime(page.headers["Expires"]).timestamp() - time.time() - by_s) < 60


@pytest.mark.row(23)
def test_the_wall_clock_does_not_matter(fleet: Sickbay, fresh: Fresh, figures: Figures) -> None:
    opens = fleet.all_opens()
    with OpenLoad(fleet.gateway_url, fresh(20_000), rate=USUAL) as load:
        for by_s in (HOUR_S, -HOUR_S, 0.0):
            load.wait_for(50)
            set_clocks(fleet, by_s)
            wait_until("the clock is wrong", partial(clock_is_off, fleet, by_s))
            load.wait_for(50)
            time.sleep(scaled(0, 15))
        assert fleet.all_opens() == opens
        # A breaker that is open when the clock goes back by two hours still has its 2 s and no more.
        set_clocks(fleet, HOUR_S)
        fleet.sicken(VICTIM, wall_s=HOUR_S, fail=1)
        fleet.wait_until_opened(VICTIM, opens[VICTIM])
        set_clocks(fleet, -HOUR_S)
        load.wait_for_node(VICTIM)
        fleet.wait_until_closed(VICTIM)
    load.report.assert_no_failure()
    assert min(each.latency_s for each in load.report.answers) > 0
    figures.say("jumps of +1 h, −2 h, +1 h: nothing opened", f"0 failed of {len(load.report.answers):,}")


@pytest.mark.row(24)
def test_changes_of_the_configuration_under_load(fleet: Sickbay, fresh: Fresh, figures: Figures) -> None:
    changes, over_s = int(scaled(8, 100)), scaled(0, 60)
    took: list[float] = []
    site = AdminSite(fleet.gateway_url, USER, PASSWORD)
    try:
        with OpenLoad(fleet.gateway_url, fresh(40_000), rate=USUAL) as load:
            began = time.monotonic()
            for number in range(changes):
                time.sleep(max(0.0, began + number * over_s / changes - time.monotonic()))
                if number % 10 == 5:
                    site.change_worker(VICTIM, weight=1 + number % 3)
                else:
                    site.tune(batch_size=16 + number % 16, cache_entries=900 + number, load_factor=1.2 + number / 1000)
                saved = time.monotonic()
                fleet.wait_for_revision(site.newest_revision())
                took.append(time.monotonic() - saved)
            elapsed_s = time.monotonic() - began
            newest = site.newest_revision()
            page = site.tune(batch_size=0)
            assert "errorlist" in page
            assert site.newest_revision() == newest
            load.wait_for(50)
            assert fleet.stats()["gateway"]["revision"] == newest
            assert fleet.health(VICTIM)["settings"]["batch_size"] == 16 + (changes - 1) % 16
    finally:
        site.tune(batch_size=32, cache_entries=1000, load_factor=1.25)
        site.change_worker(VICTIM, weight=1)
        fleet.wait_for_revision(site.newest_revision())
        site.close()
    load.report.assert_no_failure()
    figures.say(f"{changes} changes in {elapsed_s:.0f} s", f"0 failed of {len(load.report.answers):,}")
    figures.aim(max(took) <= 2, f"slowest in force everywhere after {max(took):.2f} s")
    figures.say("an invalid one refused")


@pytest.mark.row(25)
def test_a_rolling_restart_loses_nothing(tmp_path: Path, figures: Figures) -> None:
    model = onnx_models.mlp(tmp_path / "small.onnx", (64, 128, 10))
    cases = Oracle(model).random_cases(int(scaled(2_000, 20_000)), seed=1)
    rate, wanted = scaled(100, 1000), scaled(0, 100_000)
    restarts = 0
    with Cluster(tmp_path / "cluster", model=model) as cluster:
        if not FULL:
            unhurry(cluster)
        with (
            OpenLoad(cluster.gateway_url, cases, rate=rate) as load,
            # These never let go of a connection by themselves, and are at it all the time.
            Load(cluster.gateway_url, cases, connections=10, rate=rate / 4) as closed,
        ):
            load.wait_for(100)
            while not restarts or len(load.report.answers) < wanted:
                before = cluster.pids()
                os.kill(cluster.process.pid, signal.SIGHUP)
                restarts += 1
                wait_until("all have been restarted", partial(restarted, cluster, restarts), 200.0)
                assert all(cluster.pids()[name] != pid for name, pid in before.items())
                for name in cluster.names:
                    load.wait_for_node(name)
        load.report.assert_no_failure()
        closed.report.assert_no_failure()
        answers = len(load.report.answers) + len(closed.report.answers)
        slowest = max(each.latency_s for each in (*load.report.answers, *closed.report.answers))
        figures.say(f"{restarts} restarts of all", f"0 failed of {answers:,}", f"slowest answer {slowest:.2f} s")
        cluster.stop()


def restarted(cluster: Cluster, times: int) -> bool:
    return cluster.log.count("all have been restarted, in") >= times


def kill_and_revive(fleet: Sickbay, load: Load) -> None:
    fleet.kill("worker_3")
    load.wait_for(100)
    fleet.start("worker_3")
    load.wait_for_node("worker_3")


def stop_and_continue(fleet: Sickbay, load: Load) -> None:
    os.kill(fleet.pid(VICTIM), signal.SIGSTOP)
    load.wait_for(200)
    os.kill(fleet.pid(VICTIM), signal.SIGCONT)
    load.wait_for_node(VICTIM)


def overload(fleet: Sickbay, load: Load) -> None:
    clients = int(scaled(400, 2000))
    cases = random.sample(load.cases, len(load.cases))  # not those of the last time, which are cached
    with Load(fleet.gateway_url, cases, connections=clients, rate=3 * CAPACITY, allow_503=True) as more:
        more.wait_for(int(scaled(500, 10 * CAPACITY)))
        wait_until("it is too much", lambda: more.report.statuses[503] > 0)
    more.report.assert_no_failure()
    time.sleep(scaled(0, 6))


def change_often(fleet: Sickbay, load: Load) -> None:
    for number in range(int(scaled(1, 5))):
        fleet.tune(cache_entries=900 + number, batch_size=31)
    fleet.tune(cache_entries=1000, batch_size=32)


@pytest.mark.row(30)
def test_a_soak_with_faults_in_turn(fleet: Sickbay, fresh: Fresh, figures: Figures) -> None:
    clients_port = int(fleet.gateway_url.rpartition(":")[2])
    watched = {name: fleet.pid(name) for name in ("gateway", "worker_1", VICTIM)}
    faults = (kill_and_revive, stop_and_continue, overload, change_often)
    sizes: list[dict[str, tuple[int, int]]] = []
    began = time.monotonic()
    cases = fresh(30_000)
    with (
        # Silence and full queues are among the faults.
        fleet.tuned(silence_ms=300, queue_ms=scaled(100, 2_000)),
        # So many connections and no more, whoever is stopped for how long: what these take is no growth.
        Load(fleet.gateway_url, cases, connections=64, rate=CAPACITY / 4, allow_503=True) as load,
    ):
        while len(sizes) < 2 or time.monotonic() - began < scaled(0, 600):
            for fault in faults:
                fault(fleet, load)
            load.wait_for(50)
            sizes.append({name: (resident_kb(pid), descriptors(pid, clients_port)) for name, pid in watched.items()})
    load.report.assert_no_failure()
    minutes = (time.monotonic() - began) / 60
    figures.say(f"{minutes:.1f} min, {len(sizes)} rounds", f"0 wrong of {len(load.report.answers):,}")
    warm, last = sizes[(len(sizes) - 1) // 2 if FULL else 0], sizes[-1]
    for name in watched:
        (kb, files), (kb_last, files_last) = warm[name], last[name]
        figures.say(f"{name} {kb / 1024:.0f} → {kb_last / 1024:.0f} MB, {files} → {files_last} descriptors")
        assert files_last <= files + 20
        assert kb_last <= 1.1 * kb + 20_000
