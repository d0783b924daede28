"""Workers that are killed, stopped or told to go while requests come in: no client notices."""

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support import onnx_models
from tests.support.cluster import Cluster
from tests.support.http import request
from tests.support.load import Case, Load, Oracle, Report
from tests.support.processes import wait_until

RATE = 600.0  # requests per second
REPEATED = 200  # of these cases it is known which worker they belong to
# A stop cuts off who is left after some seconds. A machine that takes longer does not do so every time.
STOP_S, TRIES = 4.0, 3


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # About 5 ms per run: whenever a worker dies, it dies with requests in its hands.
    return onnx_models.slow(tmp_path_factory.mktemp("model") / "slow.onnx", work=1_500)


@pytest.fixture(scope="module")
def cases(model: Path) -> list[Case]:
    """Every third one comes again and again; the others are too many for any cache."""
    oracle = Oracle(model)
    repeated, fresh = oracle.random_cases(REPEATED, seed=1), oracle.random_cases(40_000, seed=2)
    mixed = []
    for number in range(len(fresh) // 2):
        mixed += [repeated[number % REPEATED], *fresh[2 * number : 2 * number + 2]]
    return mixed


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("kill"), model=model, calm=True) as cluster:
        yield cluster


@pytest.fixture
def cluster(running: Cluster) -> Cluster:
    """All there again after what an earlier test did."""
    running.wait_until_connected()
    return running


def worker(cluster: Cluster, name: str) -> dict[str, Any]:
    return next(each for each in cluster.stats()["workers"] if each["name"] == name)


def breaker(cluster: Cluster, name: str) -> dict[str, Any]:
    return next(each for each in cluster.stats()["circuit_breakers"] if each["name"] == name)


def tune(cluster: Cluster, **values: float) -> None:
    """Saves these values and returns when the gateway has them."""
    before = cluster.stats()["gateway"]["revision"]
    script = f"from gateway_app.models import Tuning; t = Tuning.objects.get(); t.__dict__.update({values!r}); t.save()"
    done = cluster.manage("shell", "--verbosity=0", "--command", script)
    assert done.returncode == 0, done.stderr
    wait_until("a new revision", lambda: cluster.stats()["gateway"]["revision"] > before)


def owners(report: Report, since: float, until: float) -> dict[int, set[str]]:
    """The workers that answered each of the repeated cases, which stand at every third place."""
    found: dict[int, set[str]] = {}
    for place, names in report.owners(since, until).items():
        if place % 3 == 0:
            found.setdefault(place // 3 % REPEATED, set()).update(names)
    return found


def wait_for_repeated(load: Load, since: float) -> dict[int, set[str]]:
    wait_until(
        "an answer for each repeated case", lambda: len(owners(load.report, since, time.monotonic())) == REPEATED
    )
    return owners(load.report, since, time.monotonic())


def test_a_killed_worker_loses_nothing_and_gets_its_keys_back(cluster, cases):
    tune(cluster, hot_cache=False)  # else the gateway may answer too
    retries = cluster.stats()["gateway"]["retries"]
    with Load(cluster.gateway_url, cases, connections=50, rate=RATE) as load:
        before = wait_for_repeated(load, time.monotonic())
        assert all(len(names) == 1 for names in before.values())
        with cluster.unattended():
            cluster.kill("worker_2")
            wait_until("/stats shows it", lambda: not worker(cluster, "worker_2")["connected"])
            assert breaker(cluster, "worker_2")["last_error"]
            load.wait_for_node("worker_1")
            load.wait_for_node("worker_3")
        cluster.wait_for_line(r"worker_2 was ended by SIGKILL; starting it again")
        load.wait_for_node("worker_2")
        wait_until("its breaker is closed", lambda: breaker(cluster, "worker_2")["state"] == "CLOSED")
        after = wait_for_repeated(load, time.monotonic())
    load.report.assert_no_failure()
    assert cluster.stats()["gateway"]["retries"] > retries  # it was killed with requests in its hands
    assert after == before


def test_all_killed_at_once_is_503_until_they_are_back(cluster, cases):
    with Load(cluster.gateway_url, cases, connections=10, rate=RATE, allow_503=True) as load:
        load.wait_for(300)
        pids = [cluster.pid(name) for name in cluster.names]
        with cluster.unattended():
            # Stopped first: what one of them had must not be what another one runs, alone, when its turn comes.
            for number in (signal.SIGSTOP, signal.SIGKILL):
                for pid in pids:
                    os.kill(pid, number)
            wait_until("503s", lambda: load.report.statuses[503] > 50)
            health = request("GET", f"{cluster.gateway_url}/health")
        for name in cluster.names:
            load.wait_for_node(name)
        cluster.wait_until_connected()
        wait_until(
            "every breaker is closed", lambda: all(breaker(cluster, n)["state"] == "CLOSED" for n in cluster.names)
        )
        back = time.monotonic()
        load.wait_for(500)
    load.report.assert_no_failure()
    assert {each.status for each in load.report.between(back)} == {200}  # no 503 once all are back
    assert health[0] == 503
    assert b'"healthy":false' in health[1].replace(b" ", b"")


def test_a_stopped_worker_is_passed_over_and_its_late_answers_are_dropped(cluster, cases):
    tune(cluster, silence_ms=500)
    try:
        with Load(cluster.gateway_url, cases, connections=50, rate=RATE) as load:
            load.wait_for(300)
            opens = breaker(cluster, "worker_3")["opens"]
            pid = cluster.kill("worker_3", signal.SIGSTOP)
            try:
                wait_until("its breaker opens", lambda: breaker(cluster, "worker_3")["opens"] > opens)
                assert "nothing was heard" in breaker(cluster, "worker_3")["last_error"]
                load.wait_for(500)
            finally:
                os.kill(pid, signal.SIGCONT)
            load.wait_for_node("worker_3")
            wait_until("its breaker is closed", lambda: breaker(cluster, "worker_3")["state"] == "CLOSED")
            load.wait_for(1_000)
        load.report.assert_no_failure()
        assert cluster.pid("worker_3") == pid
        wait_until("nothing is in flight", lambda: cluster.stats()["gateway"]["in_flight"] == 0)
    finally:
        tune(cluster, silence_ms=0)


def is_another(cluster: Cluster, name: str, pid: int) -> bool:
    return cluster.pid(name) != pid


def test_workers_restarted_one_by_one_lose_nothing(cluster, cases):
    with Load(cluster.gateway_url, cases, connections=50, rate=RATE) as load:
        load.wait_for(300)
        for name in cluster.names:
            pid = cluster.kill(name, signal.SIGTERM)
            wait_until(f"another {name}", partial(is_another, cluster, name, pid))
            load.wait_for_node(name)
            assert f"{name} ended with status 0; starting it again" in cluster.log
    load.report.assert_no_failure()


def test_a_gateway_that_is_told_twice_still_finishes_what_it_has(cluster, cases):
    """Far enough apart to be two signals, with clients still there that keep their connections.

    Who connects meanwhile waits for the next process.
    """
    with Load(cluster.gateway_url, cases, connections=50, rate=RATE) as load:
        load.wait_for(300)
        pid = cluster.kill("gateway", signal.SIGTERM)
        time.sleep(0.02)
        with suppress(ProcessLookupError):  # this process may have been held up until that one had ended
            os.kill(pid, signal.SIGTERM)
        wait_until("another gateway", partial(is_another, cluster, "gateway", pid))
        load.wait_for(500)
    load.report.assert_no_failure()
    assert "gateway was told to stop; starting the next" in cluster.log
    cluster.wait_for_line(rf"gateway ended, pid {pid}: ended with status 0$")


def to_runcluster(cluster: Cluster) -> None:
    cluster.process.terminate()


def to_its_group(cluster: Cluster) -> None:
    os.killpg(cluster.process.pid, signal.SIGTERM)


def to_every_process(cluster: Cluster) -> None:
    for pid in [*cluster.pids().values(), cluster.process.pid]:
        os.kill(pid, signal.SIGTERM)


def to_the_gateway_first(cluster: Cluster) -> None:
    """Another gateway is being started when the rest is told."""
    before = cluster.kill("gateway", signal.SIGTERM)
    wait_until("its successor", partial(is_another, cluster, "gateway", before))
    cluster.process.terminate()


@pytest.mark.parametrize("tell", [to_runcluster, to_its_group, to_every_process, to_the_gateway_first])
def test_a_stop_under_load_answers_what_was_accepted(make_cluster, model, cases, tell: Callable[[Cluster], None]):
    for left in reversed(range(TRIES)):
        stopping = make_cluster(model=model)
        with Load(stopping.gateway_url, cases, connections=50, rate=RATE) as load:
            load.wait_for(300)
            told = time.monotonic()
            tell(stopping)
            all_told = time.monotonic()
            assert stopping.wait() == 0
            took_s = time.monotonic() - all_told
            wait_until("a connection is refused", lambda: any(f.cause == "refused" for f in load.report.failures))
        try:
            assert_all_were_answered(stopping, load.report, told)
            return
        except AssertionError:
            if took_s < STOP_S or not left:
                raise


def assert_all_were_answered(stopped: Cluster, report: Report, told: float) -> None:
    # Refused is whoever comes when it is over: everyone before has had the answer to the request.
    report.assert_no_failure(but=["refused"])
    assert all(each.began > told for each in report.failures)
    assert max(each.began + each.latency_s for each in report.answers) > told
    assert "in time: " not in stopped.log  # nobody had to be killed
    # One that the signal reached before the supervisor may have been started once more.
    assert len(re.findall(r"ended with status 0", stopped.log)) >= 4
