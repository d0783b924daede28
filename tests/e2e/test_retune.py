"""The admin's forms change a cluster while it is working: in force at once, and no request is lost over it."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.adminsite import AdminSite
from tests.support.cluster import CALM, Cluster, Server
from tests.support.load import Case, Load
from tests.support.processes import wait_until

RATE = 400.0
TOKEN = "shared by all"
# Who owns an input is who answers it only while nobody else may.
DEFAULTS = {
    **CALM, "hot_cache": False, "slow_start_seconds": 0, "error_rate_percent": 20, "retry_percent": 20,
    "hand_off": True, "virtual_nodes": 150, "failure_threshold": 5, "success_threshold": 2, "cache_entries": 1000,
    "cache_mib": 256, "batch_size": 32, "batch_wait_ms": 20, "batch_eager": True, "default_model": "",
}  # fmt: skip


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("retune"), model=model, env={"INFERENCE_TOKEN": TOKEN}) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def logged_in(running: Cluster) -> Iterator[AdminSite]:
    admin = AdminSite(running.gateway_url, "admin", running.password)
    yield admin
    admin.close()


@pytest.fixture
def admin(running: Cluster, logged_in: AdminSite) -> AdminSite:
    """Finds all settings as at first, and in force: a test compares with who owned what before its change."""
    logged_in.tune(**DEFAULTS)
    for name in running.names:
        logged_in.change_worker(name, weight=1, enabled=True, draining=False, isolated=False)
    newest = logged_in.newest_revision()
    wait_until("all is as at first", lambda: running.stats()["gateway"]["revision"] == newest)
    running.wait_until_connected()
    wait_until("for all", lambda: all(each["revision"] == newest for each in settings(running)))
    wait_until(
        "all breakers are closed", lambda: {breaker(running, name)["state"] for name in running.names} == {"CLOSED"}
    )
    return logged_in


@pytest.fixture
def load(running: Cluster, admin: AdminSite, cases: list[Case]) -> Iterator[Load]:
    """Goes on during the whole test; not one request may fail."""
    with Load(running.gateway_url, cases, connections=20, rate=RATE) as load:
        load.wait_for(100)
        yield load
        load.wait_for(200)
    load.report.assert_no_failure()


def in_force(what: str, condition: Callable[[], object]) -> None:
    wait_until(f"{what} is in force", condition)


def worker(cluster: Cluster, name: str) -> dict[str, Any]:
    return next(each for each in cluster.stats()["workers"] if each["name"] == name)


def breaker(cluster: Cluster, name: str) -> dict[str, Any]:
    return next(each for each in cluster.stats()["circuit_breakers"] if each["name"] == name)


def shares(cluster: Cluster) -> list[float]:
    return [worker(cluster, name)["key_share"] for name in cluster.names]


def settings(cluster: Cluster) -> list[dict[str, Any]]:
    return [cluster.health(name)["settings"] for name in cluster.names]


def owners(load: Load) -> dict[int, set[str]]:
    """Which worker answers each case from now on."""
    since = time.monotonic()
    load.wait_for_each_case(since)
    return load.report.owners(since)


def test_every_field_of_the_tuning(running, admin, load):
    before = shares(running)
    page = admin.tune(
        virtual_nodes=7, failure_threshold=9, success_threshold=3, open_seconds=12.5, cache_entries=50, cache_mib=3,
        batch_size=5, batch_wait_ms=2.5, batch_eager=False, request_timeout_ms=8_000, error_rate_percent=50,
        slow_factor=100, silence_ms=5_000, slow_start_seconds=1, check_seconds=0.5, retry_percent=10, hedging=True,
        queue_ms=1_500, hand_off=False,
    )  # fmt: skip
    assert "was changed successfully" in page
    expected = {
        "cache_entries": 50, "cache_bytes": 3 * 2**20, "batch_size": 5, "batch_wait_ms": 2.5, "batch_eager": False,
        "queue_ms": 1500.0,
    }  # fmt: skip
    in_force("the workers' part", lambda: all(expected.items() <= each.items() for each in settings(running)))
    in_force("the gateway's part", lambda: shares(running) != before)
    for name in running.names:
        assert (breaker(running, name)["failure_threshold"], breaker(running, name)["success_threshold"]) == (9, 3)
    revision = running.stats()["gateway"]["revision"]
    assert all(each["revision"] == revision for each in settings(running))
    # What is in force is also done: no cache is larger than its new limit, and batches wait for the time limit.
    load.wait_for(500)
    health = [running.health(name) for name in running.names]
    assert all(each["cache_size"] <= each["cache_capacity"] == 50 for each in health)
    waited = [each["batch_processor"]["timeout_batches"] for each in health]
    wait_until(
        "batches that waited",
        lambda: all(
            running.health(name)["batch_processor"]["timeout_batches"] > count
            for name, count in zip(running.names, waited, strict=True)
        ),
    )


def test_a_models_own_settings_come_before_the_tuning(running, admin, load):
    def capacities() -> set[int]:
        return {running.health(name)["cache_capacity"] for name in running.names}

    page = admin.add_model(name="small", cache_entries=11, batch_size=0)
    assert "0 is out of range. Choose from 1 to 1,024." in page
    page = admin.add_model(name="small", cache_entries=11, batch_size=7)
    assert "was added successfully" in page
    in_force("its cache", lambda: capacities() == {11})

    def served() -> list[tuple[str, int]]:
        found = [each for each in running.stats()["models"] if each["name"] == "small"]
        return [(each["state"], each["max_batch_size"]) for each in found]

    in_force("its batches", lambda: served() == [("READY", 7)])
    load.wait_for(300)
    assert all(running.health(name)["cache_size"] <= 11 for name in running.names)
    assert "was deleted successfully" in admin.remove_model("small")
    in_force("what is usual", lambda: capacities() == {1000})


def test_an_invalid_value_is_refused_with_a_sentence(running, admin, load):
    revision = running.stats()["gateway"]["revision"]
    before = settings(running)
    page = admin.tune(batch_size=0, cache_entries=77)
    assert "0 is out of range. Choose from 1 to 1,024." in page
    page = admin.tune(batch_eager=False, batch_wait_ms=500, request_timeout_ms=400)
    assert "a request would run into its limit of 400 ms" in page
    page = admin.change_worker("worker_1", weight=-1)
    assert "-1.0 is out of range. Choose from 0.01 to 100." in page
    taken = worker(running, "worker_1")["address"].rpartition(":")[2]
    page = admin.add_worker(name="worker_9", host="127.0.0.1", port=taken)
    assert "Another worker has this host and port already." in page
    load.wait_for(int(RATE))  # two polls of the configuration
    assert running.stats()["gateway"]["revision"] == revision
    assert running.stats()["total_workers"] == 3
    assert settings(running) == before


def test_a_draining_worker_gives_up_its_keys_alone(running, admin, load):
    before = owners(load)
    assert all(len(names) == 1 for names in before.values())
    assert "Done: worker_2: draining." in admin.act("drain", "worker_2")
    in_force("the drain", lambda: not worker(running, "worker_2")["routable"])
    assert worker(running, "worker_2")["draining"]
    assert worker(running, "worker_2")["connected"]
    during = owners(load)
    for place, names in before.items():
        assert during[place] <= {"worker_1", "worker_3"}
        assert during[place] == names or names == {"worker_2"}
    # A lost share is not dumped on one neighbour.
    heirs = [during[place] for place, names in before.items() if names == {"worker_2"}]
    assert {"worker_1"} in heirs
    assert {"worker_3"} in heirs
    admin.act("undrain", "worker_2")
    in_force("its end", lambda: worker(running, "worker_2")["routable"])
    assert owners(load) == before


def test_a_disabled_worker_is_let_go_and_comes_back(running, admin, load):
    before = owners(load)
    admin.change_worker("worker_3", enabled=False)
    in_force("it", lambda: running.stats()["total_workers"] == 2)
    in_force("the end of its link", lambda: not worker(running, "worker_3")["connected"])
    gone = worker(running, "worker_3")
    assert (gone["enabled"], gone["key_share"]) == (False, 0)
    during = owners(load)
    assert all(during[place] == names or names == {"worker_3"} for place, names in before.items())
    in_force("the end of its streams", lambda: running.health("worker_3")["gateways"] == 0)
    admin.act("enable", "worker_3")
    running.wait_until_connected()
    assert owners(load) == before


def test_an_isolated_worker_gets_nothing_until_that_ends(running, admin, load):
    assert "Done: worker_2: isolated." in admin.act("isolate", "worker_2")
    in_force("the isolation", lambda: worker(running, "worker_2")["isolated"])
    in_force("its end of work", lambda: worker(running, "worker_2")["in_flight"] == 0)
    assert worker(running, "worker_2")["connected"]
    assert breaker(running, "worker_2")["state"] == "OPEN"
    answered = worker(running, "worker_2")["requests"]
    assert set.union(*owners(load).values()) == {"worker_1", "worker_3"}
    assert worker(running, "worker_2")["requests"] == answered
    admin.act("unisolate", "worker_2")
    load.wait_for_node("worker_2")
    in_force("its end", lambda: breaker(running, "worker_2")["state"] == "CLOSED")
    assert newest_event(running, "worker_2", after="OPEN")["reason"] == "isolated by an operator"


def test_a_breaker_is_tripped_and_reset_by_hand(running, admin, load):
    for _ in range(2):
        assert "Done: worker_3: breaker tripped." in admin.act("trip", "worker_3")
        in_force("the order", lambda: breaker(running, "worker_3")["state"] == "OPEN")
        assert breaker(running, "worker_3")["cause"] == "operator"
        assert worker(running, "worker_3")["connected"]
        # Its time is not over: only the order closes it.
        assert "Done: worker_3: breaker reset." in admin.act("reset", "worker_3")
        in_force("the order", lambda: breaker(running, "worker_3")["state"] == "CLOSED")
        load.wait_for_node("worker_3")
    assert newest_event(running, "worker_3", after="OPEN")["reason"] == "tripped by an operator"
    assert newest_event(running, "worker_3", after="CLOSED")["reason"] == "reset by an operator"
    kept = "from gateway_app.models import Event as B; print(B.objects.filter(reason__contains='operator').count())"

    def in_database() -> int:
        return int(running.manage("shell", "--verbosity=0", "--command", kept).stdout)

    wait_until("both rounds are in the database", lambda: in_database() >= 4)


def newest_event(cluster: Cluster, name: str, after: str) -> dict[str, Any]:
    events = [each for each in cluster.stats()["events"] if (each["worker"], each["after"]) == (name, after)]
    return events[-1]


def test_a_weight_changes_the_share(running, admin, load):
    before = owners(load)
    admin.change_worker("worker_1", weight=4)
    in_force("the weight", lambda: worker(running, "worker_1")["key_share"] > 0.5)
    after = owners(load)
    # Keys move to the one that has grown, and nowhere else.
    assert all(after[place] == names or after[place] == {"worker_1"} for place, names in before.items())
    assert sum(names == {"worker_1"} for names in after.values()) > len(after) / 2


def test_a_worker_is_added_and_removed(running, admin, load, tmp_path, model):
    before = owners(load)
    with Server.worker(tmp_path, "worker_4", str(model), env={"INFERENCE_TOKEN": TOKEN}) as fourth:
        fourth.wait_ready()
        page = admin.add_worker(name="worker_4", host="127.0.0.1", port=fourth.url.rpartition(":")[2])
        assert "was added successfully" in page
        load.wait_for_node("worker_4")
        after = owners(load)
        assert all(after[place] == names or after[place] == {"worker_4"} for place, names in before.items())
        assert 0.15 < worker(running, "worker_4")["key_share"] < 0.35
        admin.change_worker("worker_4", enabled=False)
        in_force("its end", lambda: running.stats()["total_workers"] == 3)
        assert owners(load) == before
        assert fourth.terminate() == 0


@pytest.mark.parametrize(("threshold", "opens"), [(1, True), (1000, False)])
def test_the_breaker_uses_the_threshold_that_was_set(running, admin, load, threshold, opens):
    admin.tune(failure_threshold=threshold, error_rate_percent=0)  # failures in a row are left
    in_force("the threshold", lambda: breaker(running, "worker_1")["failure_threshold"] == threshold)
    before = breaker(running, "worker_1")["opens"]
    with running.unattended():
        running.kill("worker_1")
        wait_until("/stats shows it", lambda: not worker(running, "worker_1")["connected"])
        if opens:
            wait_until("its breaker has opened", lambda: breaker(running, "worker_1")["opens"] > before)
    load.wait_for_node("worker_1")
    wait_until("its breaker is closed", lambda: breaker(running, "worker_1")["state"] == "CLOSED")
    assert (breaker(running, "worker_1")["opens"] > before) == opens


def test_a_hundred_changes_under_load(running, admin, load):
    """Saved one after the other in one process, as fast as it can; the last one is what counts."""
    script = (
        "from gateway_app.models import Tuning\n"
        "for number in range(100):\n"
        "    tuning = Tuning.objects.get()\n"
        "    tuning.cache_entries, tuning.virtual_nodes = 500 + number, 100 + number\n"
        "    tuning.save()\n"
    )
    revision = running.stats()["gateway"]["revision"]
    done = running.manage("shell", "--verbosity=0", "--command", script)
    assert done.returncode == 0, done.stderr
    in_force("the last", lambda: running.stats()["gateway"]["revision"] == revision + 100)
    in_force("the last", lambda: all(each["cache_entries"] == 599 for each in settings(running)))
