"""A canary on a real cluster under load: settings and a version on one worker, then for all, or for nobody any more."""

import random
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.adminsite import AdminSite
from tests.support import v2
from tests.support.cluster import Cluster
from tests.support.load import Load
from tests.support.processes import wait_until
from tests.support.repository import STEP, broken, marked, publish
from tests.support.v2 import MarkedCase, Marks

CANARY = "worker_2"
FORMS = ("flat", "named", "json", "binary")
PAGE = "/admin/gateway_app/canary/"
Make = Callable[..., Cluster]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "models"
    publish(root, "alpha", 1, marked(1))
    return root


@pytest.fixture
def running(make_cluster: Make, repository: Path) -> Cluster:
    """Its gateway writes down by itself that the only model is the default."""
    cluster = make_cluster(arguments=("--repository", str(repository)), calm=True)
    wait_until("alpha is it", lambda: all(each["default_model"] == "alpha" for each in settings(cluster).values()))
    return cluster


def start(cluster: Cluster, *arguments: str) -> str:
    done = cluster.manage("canary", "start", CANARY, *arguments, "--gateway", cluster.gateway_url)
    assert done.returncode == 0, done.stderr
    return done.stdout


def end(cluster: Cluster, step: str) -> str:
    done = cluster.manage("canary", step, "--yes")
    assert done.returncode == 0, done.stderr
    return done.stdout


def settings(cluster: Cluster) -> dict[str, dict[str, Any]]:
    return {name: cluster.health(name)["settings"] for name in cluster.names}


def tried(cluster: Cluster) -> dict[str, Any]:
    found: dict[str, Any] | None = cluster.stats()["canary"]
    return found or {"state": "nothing", "verdict": ""}


def cases(marks: Marks, count: int = 60) -> list[MarkedCase]:
    """In every form, so that most answers come from some cache."""
    rng = random.Random(1)
    values = [tuple(rng.randint(-99, 99) / 4 for _ in range(4)) for _ in range(count)]
    return [MarkedCase("alpha", each, FORMS[number % 4], marks) for number, each in enumerate(values)]


def said(load: Load, marks: Marks, since: float) -> dict[int, set[tuple[str, int]]]:
    """By case, who has answered those that were sent from then on, and with which version."""
    found: dict[int, set[tuple[str, int]]] = {}
    for answer, mark in zip(tuple(load.report.answers), tuple(marks.seen), strict=False):
        if answer.began > since:
            found.setdefault(answer.case, set()).add((answer.node, mark))
    return found


def all_said(load: Load, marks: Marks) -> dict[int, set[tuple[str, int]]]:
    """Of each case, from now on."""
    since = time.monotonic()
    load.wait_for_each_case(since)
    load.wait_for(100)
    return said(load, marks, since)


def test_settings_are_tried_compared_and_promoted(running: Cluster) -> None:
    marks = Marks({1})
    load_cases = cases(marks, 4000)
    with Load(running.gateway_url, load_cases, connections=10, rate=500) as load:
        load.wait_for(50)
        before = settings(running)
        newest = max(each["revision"] for each in before.values())
        assert "Now tried on worker_2: requests per batch 64" in start(running, "batch_size=64", "cache_entries=7")
        wait_until("all know of it", lambda: all(each["revision"] > newest for each in settings(running).values()))
        now = settings(running)
        assert now[CANARY]["batch_size"] == 64
        changed = {"batch_size": 64, "cache_entries": 7}
        assert {name: value for name, value in now[CANARY].items() if before[CANARY][name] != value} == {
            **changed, "revision": now[CANARY]["revision"],
        }  # fmt: skip
        for name in ("worker_1", "worker_3"):
            assert {**before[name], "revision": now[CANARY]["revision"]} == now[name]
        assert tried(running)["tuning"] == changed
        wait_until(
            "enough requests to compare",
            lambda: tried(running)["state"] == "in force" and "Not enough" not in tried(running)["verdict"],
        )
        measured = {each["what"]: each for each in tried(running)["compare"]}
        assert measured["requests per worker"]["canary"] > 0 and measured["requests per worker"]["others"] > 0
        assert measured["errors"]["canary"] == 0
        assert running.health(CANARY)["cache_size"] <= 7
        end(running, "promote")
        wait_until("all have it", lambda: all(changed.items() <= each.items() for each in settings(running).values()))
        wait_until("nothing is tried", lambda: tried(running)["state"] == "nothing")
        load.wait_for(50)
    load.report.assert_no_failure()


def test_a_version_answers_its_workers_keys_alone_until_it_is_promoted(running: Cluster, repository: Path) -> None:
    publish(repository, "alpha", 2, marked(2))
    marks = Marks({1})
    with Load(running.gateway_url, cases(marks), connections=10, rate=400) as load:
        before = all_said(load, marks)
        own = {case for case, found in before.items() if {node for node, _ in found} == {CANARY}}
        assert own and len(own) < len(before)
        marks.allowed.add(2)
        assert "All others keep version 1 of alpha" in start(running, "--model", "alpha/2")
        wait_until("it is in force", lambda: tried(running)["state"] == "in force")
        during = all_said(load, marks)
        assert {case for case, found in during.items() if {mark for _, mark in found} == {2}} == own
        assert all(found == before[case] for case, found in during.items() if case not in own)
        # Who names a version gets that one, whose keys ever they are.
        url = running.gateway_url
        for number in range(20):
            values = [float(number), 2.0, 3.0, 4.0]
            for version in ("1", "2"):
                status, answer = v2.infer(url, "alpha", values, version)
                assert (status, answer["model_version"]) == (200, version)
                assert answer["outputs"][0]["data"][0] == values[0] + int(version) * STEP
            status, answer = v2.infer(url, "alpha", values)
            assert answer["outputs"][0]["data"][0] == values[0] + int(answer["model_version"]) * STEP
        # Its worker is killed: nothing is lost, and what it had answered is answered by the version of the others.
        running.kill(CANARY)
        load.wait_for(100)
        load.wait_for_node(CANARY)
        wait_until("it is in force again", lambda: tried(running)["state"] == "in force")
        wait_until("it answers its keys again", lambda: {2} == {mark for _, mark in all_said(load, marks)[min(own)]})
        end(running, "promote")
        wait_until("all have it", partial(is_everybodys, running, "2"))
        promoted = all_said(load, marks)
        assert {mark for found in promoted.values() for _, mark in found} == {2}
        assert {node for found in promoted.values() for node, _ in found} == set(running.names)
    load.report.assert_no_failure()
    wait_until("nothing is tried", lambda: tried(running)["state"] == "nothing")


def test_while_its_worker_is_away_the_others_version_answers(running: Cluster, repository: Path) -> None:
    publish(repository, "alpha", 2, marked(2))
    start(running, "--model", "alpha/2")
    wait_until("it is in force", lambda: tried(running)["state"] == "in force")
    marks = Marks({1, 2})
    with Load(running.gateway_url, cases(marks), connections=10, rate=300) as load:
        load.wait_for_each_case(time.monotonic())
        disable = f"from gateway_app.models import Worker as W; W.objects.filter(name={CANARY!r}).update(enabled=False)"
        running.manage("shell", "--verbosity=0", "--command", disable).check_returncode()
        wait_until("it idles", lambda: f"{CANARY} is disabled" in tried(running)["verdict"])
        assert {mark for found in all_said(load, marks).values() for _, mark in found} == {1}
    load.report.assert_no_failure()


def test_aborted_no_answer_of_it_comes_from_anywhere(running: Cluster, repository: Path) -> None:
    publish(repository, "alpha", 2, marked(2))
    admin = AdminSite(running.gateway_url, "admin", running.password)
    marks = Marks({1, 2})
    with Load(running.gateway_url, cases(marks), connections=10, rate=400) as load:
        page = admin.send(PAGE, worker=CANARY, model="alpha", version="2", comment="is it better?")
        assert f"Now tried on {CANARY}: alpha version 2." in page
        wait_until("it is in force", lambda: tried(running)["state"] == "in force")
        wait_until("who has started it is known", lambda: tried(running)["author"] == "admin")
        assert 2 in {mark for found in all_said(load, marks).values() for _, mark in found}
        assert "It does again what all others do" in admin.send(PAGE, f"{PAGE}abort/")
        assert f"No longer tried on {CANARY}" in admin.send(PAGE, f"{PAGE}abort/", confirmed="yes")
        wait_until("it is over", lambda: tried(running)["state"] == "nothing")
        assert {mark for found in all_said(load, marks).values() for _, mark in found} == {1}
        wait_until("it is unloaded", partial(is_everybodys, running, "1"))
        # Nor does a worker that starts anew load it by itself.
        running.kill("worker_1")
        load.wait_for_node("worker_1")
        assert {mark for found in all_said(load, marks).values() for _, mark in found} == {1}
    load.report.assert_no_failure()
    admin.close()


def test_a_version_that_cannot_be_loaded_is_corrected_and_tried_again(running: Cluster, repository: Path) -> None:
    marks = Marks({1})
    with Load(running.gateway_url, cases(marks), connections=5, rate=200) as load:
        start(running, "--model", "alpha/2")
        wait_until("it says so", lambda: "alpha has no version 2; there are: 1" in tried(running)["verdict"])
        end(running, "abort")
        publish(repository, "alpha", 2, broken)
        start(running, "--model", "alpha/2")
        wait_until("it says so", lambda: "model.onnx" in tried(running)["verdict"])
        load.wait_for(50)
        end(running, "abort")
        publish(repository, "alpha", 2, marked(2))
        marks.allowed.add(2)
        start(running, "--model", "alpha/2")
        wait_until("it is in force", lambda: tried(running)["state"] == "in force")
        assert 2 in {mark for found in all_said(load, marks).values() for _, mark in found}
    load.report.assert_no_failure()


def is_everybodys(cluster: Cluster, version: str) -> bool:
    """Whether all workers have this version, and no other."""
    found = [v2.index(url) for url in cluster.worker_urls.values()]
    return all({each for (_, each), state in index.items() if state == "READY"} == {version} for index in found)
