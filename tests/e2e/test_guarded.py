"""A change is seen before it is saved, and taken back: by itself when it does harm, by hand when somebody wants it."""

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.adminsite import AdminSite
from tests.support.cluster import Cluster
from tests.support.load import Load
from tests.support.processes import wait_until

RATE = 300.0
# With the change below every request takes longer than this.
WAIT_MS = 3_000
# Nothing is worse than what a machine shows that is held up while the present is measured: that is not every time so.
USUAL_MS, TRIES = 1_000, 5


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("guarded"), model=model, calm=True) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def admin(running: Cluster) -> Iterator[AdminSite]:
    site = AdminSite(running.gateway_url, "admin", running.password)
    yield site
    site.close()


def guard(cluster: Cluster, revision: int) -> dict[str, Any]:
    """As /stats tells it; empty if it is another one's, or none."""
    told = cluster.stats()["guard"] or {}
    return told if told.get("revision") == revision else {}


def all_closed(cluster: Cluster) -> bool:
    return all(each["state"] == "CLOSED" for each in cluster.stats()["circuit_breakers"])


def batch_sizes(cluster: Cluster) -> set[int]:
    return {cluster.health(name)["settings"]["batch_size"] for name in cluster.names}


def in_force(cluster: Cluster, revision: int) -> None:
    wait_until(f"revision {revision} is in force", lambda: cluster.stats()["gateway"]["revision"] == revision)


def test_a_change_that_makes_requests_slow_takes_itself_back(running, admin, cases):
    admin.tune(cache_entries=0, hot_cache=False)
    usual = admin.newest_revision()
    in_force(running, usual)
    with Load(running.gateway_url, cases, connections=20, rate=RATE) as load:
        for _ in range(TRIES):
            load.wait_for(int(RATE) * 5)
            page = admin.preview_tuning(batch_eager=False, batch_size=1024, batch_wait_ms=WAIT_MS)
            assert "start at once when the model is free" in page
            assert "Batches, at the rates of the last minute" in page  # it says what will come of it
            assert admin.newest_revision() == usual
            page = admin.save_previewed(page, comment="larger batches", guard=True, guard_minutes=5)
            assert "comes back by itself" in page
            changed = admin.newest_revision()
            wait_until("it is watched", partial(guard, running, changed))
            if guard(running, changed)["base_p99_ms"] < USUAL_MS:
                break
            admin.restore(usual)
            usual = admin.newest_revision()
            in_force(running, usual)
        wait_until("it is taken back", lambda: guard(running, changed).get("state") == "reverted")
        back = admin.newest_revision()
        in_force(running, back)
        assert back == changed + 1
        wait_until("workers are told", lambda: running.health("worker_1")["settings"]["batch_eager"])
        load.wait_for(200)
    load.report.assert_no_failure()
    page = admin.page("/admin/gateway_app/revision/")
    assert f"restored revision {usual}: " in page
    assert "larger batches" in page
    assert "taken back by itself: p99 was " in page

    def told() -> int:
        config = [each for each in running.stats()["events"] if (each["kind"], each["author"]) == ("config", "guard")]
        return sum("taken back by itself" in each["reason"] for each in config)

    wait_until("it is told", told)
    assert told() == 1


def test_a_change_that_makes_requests_fail_takes_itself_back(running, admin, cases):
    before = admin.newest_revision()
    with Load(running.gateway_url, cases, connections=20, rate=RATE, allow_503=True) as load:
        load.wait_for(int(RATE))
        page = admin.preview_workers(**{name: {"isolated": True} for name in running.names})
        assert "No worker is left that may be asked: clients get 503." in page
        page = admin.save_previewed(page, "/admin/gateway_app/worker/", guard=True)
        assert "comes back by itself" in page
        wait_until("clients feel it", lambda: load.report.statuses[503])
        wait_until("it is taken back", lambda: guard(running, before + 1).get("state") == "reverted")
        in_force(running, before + 2)
        running.wait_until_connected()
        wait_until("breakers are closed", partial(all_closed, running))  # only so many are let in as trials before
        since = time.monotonic()
        load.wait_for(200)
    assert not load.report.failures
    assert {each.status for each in load.report.between(since)} == {200}
    outcome = guard(running, before + 1)["outcome"]
    assert outcome.startswith("taken back by itself: ")
    assert "the limit was 1.0 %" in outcome


def test_a_revision_is_restored_under_load_and_nothing_is_lost(running, admin, cases):
    before = admin.newest_revision()
    shares = [each["key_share"] for each in running.stats()["workers"]]
    with Load(running.gateway_url, cases, connections=20, rate=RATE) as load:
        load.wait_for(100)
        admin.change_worker("worker_1", weight=4)
        admin.change_worker("worker_3", enabled=False)
        admin.tune(virtual_nodes=20, batch_size=4)
        in_force(running, before + 3)
        load.wait_for(200)
        page = admin.restore(before, comment="as it was")
        assert f"Revision {before} is restored, as revision {before + 4}." in page
        in_force(running, before + 4)
        wait_until("its shares", lambda: [each["key_share"] for each in running.stats()["workers"]] == shares)
        running.wait_until_connected()
        load.wait_for_node("worker_3")
        load.wait_for(200)
    load.report.assert_no_failure()
    wait_until("workers have its settings", lambda: batch_sizes(running) == {32})
