"""Every action by every way that there is, on a real cluster: it is done, it is told once, and nothing is lost."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway_app.core.hotcache import WINDOW
from tests.e2e.adminsite import AdminSite
from tests.support.cluster import Cluster
from tests.support.http import request as send
from tests.support.load import Case, Load, Oracle
from tests.support.processes import wait_until

MODEL = "small"
Act = Callable[[str, str, str], None]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("operate"), model=model, calm=True) as cluster:
        cluster.wait_until_connected()
        yield cluster


@pytest.fixture(scope="module")
def password(running: Cluster) -> str:
    return running.password


@pytest.fixture(scope="module")
def token(running: Cluster, password: str) -> str:
    made = running.manage("drf_create_token", "admin")
    return made.stdout.split()[2]


@pytest.fixture(scope="module")
def cases(model: Path) -> list[Case]:
    """So many that none is among the hottest: each goes to a worker."""
    return Oracle(model).random_cases(2 * WINDOW + 1, seed=1)


@pytest.fixture
def load(running: Cluster, cases: list[Case]) -> Iterator[Load]:
    """Goes on during the whole test; not one request may fail."""
    with Load(running.gateway_url, cases, connections=10, rate=200.0) as load:
        load.wait_for(50)
        yield load
        load.wait_for(100)
    load.report.assert_no_failure()


def by_http(running: Cluster, token: str) -> Act:
    headers = {"Authorization": f"Token {token}", "Content-Type": "application/json"}

    def act(action: str, target: str, comment: str) -> None:
        url = f"{running.gateway_url}/actions/{action}"
        status, body = send("GET", f"{url}?target={target}", headers=headers)
        said = json.loads(body)
        assert (status, said["allowed"]) == (200, True), said
        assert target in said["effect"] or target == "all"  # "every worker"
        status, body = send("POST", url, json.dumps({"target": target, "comment": comment}).encode(), headers)
        assert status == 200, body

    return act


def by_command(running: Cluster) -> Act:
    def act(action: str, target: str, comment: str) -> None:
        ended = running.manage("operate", action, target, "--yes", "--comment", comment)
        assert ended.returncode == 0, ended.stderr

    return act


def by_admin(running: Cluster, password: str) -> Iterator[Act]:
    admin = AdminSite(running.gateway_url, "admin", password)

    def act(action: str, target: str, comment: str) -> None:
        if target == "all":
            page = admin.act(action, *running.names, comment=comment)
        elif target in running.names:
            page = admin.act(action, target, comment=comment)
        else:
            page = admin.operate_model(action, target, comment)
        assert "Done: " in page, re.findall(r'class="(?:error|warning|success)">(.*?)<', page)

    yield act
    admin.close()


@pytest.fixture(params=["http", "command", "admin"])
def act(request: pytest.FixtureRequest, running: Cluster, password: str, token: str) -> Iterator[Act]:
    if request.param == "http":
        yield by_http(running, token)
    elif request.param == "command":
        yield by_command(running)
    else:
        yield from by_admin(running, password)


def worker(running: Cluster, name: str) -> dict[str, Any]:
    return next(each for each in running.stats()["workers"] if each["name"] == name)


def breaker(running: Cluster, name: str) -> str:
    return str(next(each["state"] for each in running.stats()["circuit_breakers"] if each["name"] == name))


def told(running: Cluster, reason: str) -> int:
    """How often the page's events have this one."""
    return sum(each["reason"] == reason for each in running.stats()["events"])


@pytest.fixture
def done(running: Cluster, act: Act, request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """done(action, sentence) does it to worker_2, and has seen that it is told so."""
    way = request.node.callspec.params["act"]

    def do(action: str, sentence: str) -> None:
        comment = f"by {way}, {action}"
        act(action, "worker_2", comment)
        wait_until(f"{action} is told", lambda: told(running, f"worker_2: {sentence} ({comment})") == 1)

    return do


def test_breakers_under_load(running: Cluster, done: Callable[[str, str], None], load: Load) -> None:
    done("trip", "breaker tripped")
    wait_until("it is open", lambda: breaker(running, "worker_2") == "OPEN")
    done("reset", "breaker reset")
    wait_until("it is closed", lambda: breaker(running, "worker_2") == "CLOSED")
    done("isolate", "isolated")
    wait_until("it gets nothing", lambda: not worker(running, "worker_2")["routable"])
    done("unisolate", "no longer isolated")
    wait_until("it gets its own again", lambda: breaker(running, "worker_2") == "CLOSED")


def test_workers_under_load(running: Cluster, done: Callable[[str, str], None], load: Load) -> None:
    done("drain", "draining")
    wait_until("it drains", lambda: worker(running, "worker_2")["draining"])
    done("undrain", "taking requests again")
    wait_until("it takes requests", lambda: worker(running, "worker_2")["routable"])
    done("disable", "disabled")
    wait_until("it is not connected", lambda: not worker(running, "worker_2")["connected"])
    done("enable", "enabled")
    wait_until("it is connected", lambda: worker(running, "worker_2")["routable"])
    load.wait_for_node("worker_2")
    done("flush", "cache flushed")


def test_after_a_flush_everything_is_computed_again(running: Cluster, act: Act) -> None:
    running.wait_until_connected()
    asked = [[float(number), *[1.0] * 63] for number in range(20)]

    def kept_by() -> list[str]:
        """Who had them in a cache."""
        answers = [running.infer(values) for values in asked]
        assert {status for status, _ in answers} == {200}
        return [answer["node_id"] for _, answer in answers if answer["cached"]]

    for _ in range(5):  # the gateway keeps them too
        kept_by()
    assert len(kept_by()) == 20
    act("flush", "all", "for a test")
    wait_until("every cache is empty", lambda: {running.health(name)["cache_size"] for name in running.names} == {0})
    wait_until("the gateway's too", lambda: running.stats()["gateway"]["hot_entries"] == 0)
    assert kept_by() == []
    assert len(kept_by()) == 20
    act("flush", "worker_1", "for a test")
    wait_until("its cache is empty", lambda: running.health("worker_1")["cache_size"] == 0)
    wait_until("the gateway's too", lambda: running.stats()["gateway"]["hot_entries"] == 0)
    again = kept_by()
    assert again
    assert "worker_1" not in again


def test_a_model_is_unloaded_and_loaded(running: Cluster, act: Act) -> None:
    def status() -> int:
        return running.infer([1.0] * 64)[0]

    def reasons(since: str) -> list[str]:
        return [each["reason"] for each in running.stats()["events"] if each["at"] > since]

    since = max(each["at"] for each in running.stats()["events"])
    act("unload", MODEL, "for a test")
    wait_until("it is not served", lambda: status() == 404)
    act("load", MODEL, "for a test")
    wait_until("it is served", lambda: status() == 200)
    running.wait_until_connected()
    expected = {
        f"{MODEL}: ordered to unload (for a test)",
        f"{MODEL} 1 is not served any more",
        f"{MODEL}: ordered to load (for a test)",
        f"{MODEL} 1 is served",
    }
    wait_until("it is told", lambda: expected <= set(reasons(since)))
    found = [reason for reason in reasons(since) if reason in expected]
    assert len(found) == len(expected), found  # each once
