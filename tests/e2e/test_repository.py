"""Several models and versions at once: loaded, swapped and unloaded while clients ask for them."""

import itertools
import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support import v2
from tests.support.cluster import Cluster
from tests.support.http import request
from tests.support.load import Load
from tests.support.processes import wait_until
from tests.support.repository import STEP, broken, marked, publish, typed
from tests.support.v2 import MarkedCase, Marks

VALUES = [1.0, 2.0, 3.0, 4.0]
FORMS = ("flat", "named", "json", "binary")
Make = Callable[..., Cluster]
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With two models from the first, so that none is the only one: that would be the default."""
    root = tmp_path_factory.mktemp("repository") / "models"
    for name in ("always", "there"):
        publish(root, name, 1, marked(20))
    return root


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Iterator[Cluster]:
    arguments = ("--repository", str(repository))
    with Cluster(tmp_path_factory.mktemp("shared"), workers=2, arguments=arguments, calm=True) as cluster:
        yield cluster


@pytest.fixture
def running(shared: Cluster) -> Cluster:
    """All there again after what an earlier test did."""
    shared.wait_until_connected()
    return shared


@pytest.fixture
def alpha(running: Cluster, repository: Path) -> str:
    """A model of this test's own, in version 1."""
    return served(running, repository, "alpha", 1)


@pytest.fixture
def beta(running: Cluster, repository: Path) -> str:
    """Another one."""
    return served(running, repository, "beta", 11)


def served(cluster: Cluster, repository: Path, name: str, number: int) -> str:
    name = f"{name}-{next(_numbers)}"
    publish(repository, name, 1, marked(number))
    assert v2.load(cluster.gateway_url, name)[0] == 200
    return name


def infer(url: str, **members: Any) -> tuple[int, Any]:
    status, answer = request("POST", f"{url}/infer", json.dumps({"request_id": "it", **members}).encode())
    return status, json.loads(answer)


def mark(url: str, model: str = "", **members: Any) -> float:
    """Who answers /infer."""
    members = members or {"input_data": VALUES}
    status, answer = infer(url, **({"model": model} if model else {}), **members)
    assert status == 200, answer
    return (answer["output_data"][0] - VALUES[0]) / STEP


def cases(model: str, marks: Marks, count: int = 30) -> list[MarkedCase]:
    """Few, in every form: nearly every answer comes from some cache."""
    rng = random.Random(1)
    return [
        MarkedCase(model, tuple(rng.randint(-99, 99) / 4 for _ in range(4)), FORMS[number % 4], marks)
        for number in range(count)
    ]


def test_each_model_answers_its_own(running: Cluster, alpha: str, beta: str) -> None:
    for url in (running.gateway_url, *running.worker_urls.values()):
        status, answer = infer(url, input_data=VALUES)
        assert (status, answer["code"]) == (400, "model_required")
        assert alpha in answer["error"] and beta in answer["error"]
        assert mark(url, alpha) == 1
        assert mark(url, beta) == 11
        assert mark(url, beta, inputs={"input": VALUES}) == 11
        assert mark(url, beta, inputs={"input": [VALUES]}) == 11
        assert v2.infer(url, beta, VALUES)[1]["outputs"][0]["data"][0] == VALUES[0] + 11 * STEP
        assert v2.infer(url, beta, VALUES, "1")[0] == 200
        status, answer = infer(url, model="gamma", input_data=VALUES)
        assert (status, answer["request_id"]) == (404, "it")
        assert "gamma" in answer["error"]
        assert v2.infer(url, "gamma", VALUES)[0] == 404
        assert {(alpha, "1"): "READY", (beta, "1"): "READY"}.items() <= v2.index(url).items()
    first = {each["name"]: each["digest"] for each in running.health("worker_1")["models"]}
    assert first == {each["name"]: each["digest"] for each in running.health("worker_2")["models"]}
    assert {alpha, beta} <= {each["name"] for each in running.stats()["models"]}


def test_a_new_version_under_load(running: Cluster, repository: Path, alpha: str, beta: str) -> None:
    marks = Marks({1})
    others = Marks({11})
    with (
        Load(running.gateway_url, cases(alpha, marks), connections=10, rate=300) as load,
        Load(running.gateway_url, cases(beta, others), connections=4, rate=100) as beside,
    ):
        load.wait_for(100)
        marks.allowed.add(2)
        publish(repository, alpha, 2, marked(2))
        assert v2.load(running.gateway_url, alpha)[0] == 200
        loaded = time.monotonic()
        load.wait_for(100)
        beside.wait_for(50)
        for name in running.names:
            load.wait_for_node(name)
    load.report.assert_no_failure()
    beside.report.assert_no_failure()
    answers = list(zip(load.report.answers, marks.seen, strict=True))
    assert {seen for answer, seen in answers if answer.began > loaded} == {2}
    # Once somebody has had the new one's answer, nobody has the old one's.
    first = min(answer.began + answer.latency_s for answer, seen in answers if seen == 2)
    assert {seen for answer, seen in answers if answer.began > first} == {2}
    assert v2.index(running.gateway_url)[(alpha, "2")] == "READY"
    assert v2.infer(running.gateway_url, alpha, VALUES)[1]["model_version"] == "2"
    for name, url in running.worker_urls.items():
        wait_until(f"{name} has let go of the old one", partial(is_gone, url, alpha, "1"))


def refuses(url: str, model: str) -> bool:
    """Whether a process that is being started is there and answers 404."""
    try:
        return v2.infer(url, model, VALUES)[0] == 404
    except OSError:
        return False


def is_gone(url: str, name: str, version: str) -> bool:
    return v2.index(url).get((name, version)) != "READY"


def test_a_changed_file_of_the_same_version(running: Cluster, repository: Path, alpha: str) -> None:
    assert mark(running.gateway_url, alpha) == 1
    publish(repository, alpha, 1, marked(7))
    assert mark(running.gateway_url, alpha) == 1  # nobody has ordered it
    assert v2.load(running.gateway_url, alpha)[0] == 200
    for _ in range(20):
        assert mark(running.gateway_url, alpha) == 7
        assert v2.infer(running.gateway_url, alpha, VALUES)[1]["outputs"][0]["data"][0] == VALUES[0] + 7 * STEP


def test_a_broken_file_leaves_the_old_one_serving(running: Cluster, repository: Path, alpha: str) -> None:
    marks = Marks({1})
    with Load(running.gateway_url, cases(alpha, marks), connections=10, rate=300) as load:
        load.wait_for(50)
        publish(repository, alpha, 2, broken)
        status, answer = v2.load(running.gateway_url, alpha)
        assert status == 400
        assert alpha in answer["error"] and "model.onnx" in answer["error"]
        load.wait_for(100)
    load.report.assert_no_failure()
    found = v2.index(running.gateway_url)
    assert found[(alpha, "1")] == "READY"
    assert found[(alpha, "2")] == "UNAVAILABLE"
    # Corrected, it is loaded.
    publish(repository, alpha, 2, marked(2))
    assert v2.load(running.gateway_url, alpha)[0] == 200
    assert mark(running.gateway_url, alpha) == 2


def test_unloaded_and_loaded_again(running: Cluster, alpha: str, beta: str) -> None:
    marks = Marks({11})
    with Load(running.gateway_url, cases(beta, marks), connections=4, rate=200) as load:
        load.wait_for(30)
        assert v2.unload(running.gateway_url, alpha)[0] == 200
        status, answer = infer(running.gateway_url, model=alpha, input_data=VALUES)
        assert status == 404
        assert alpha in answer["error"]
        assert v2.infer(running.gateway_url, alpha, VALUES)[0] == 404
        assert v2.index(running.gateway_url)[(alpha, "1")] == "UNAVAILABLE"
        # A worker that starts now follows the database too.
        before = running.pid("worker_1")
        running.kill("worker_1", signal.SIGTERM)
        wait_until("it runs again", lambda: running.pid("worker_1") != before)
        wait_until("it follows", partial(refuses, running.worker_urls["worker_1"], alpha))
        assert infer(running.gateway_url, model=alpha, input_data=VALUES)[0] == 404
        assert v2.load(running.gateway_url, alpha)[0] == 200
        assert mark(running.gateway_url, alpha) == 1
        load.wait_for(30)
    load.report.assert_no_failure()


def test_a_model_that_came_later(running: Cluster, repository: Path) -> None:
    assert infer(running.gateway_url, model="gamma", input_data=VALUES)[0] == 404
    status, answer = v2.load(running.gateway_url, "gamma")
    assert status == 404
    assert str(repository / "gamma" / "1" / "model.onnx") in answer["error"]
    # Nothing is kept of that order, so there is nothing to be undone.
    assert v2.unload(running.gateway_url, "gamma")[0] == 404
    publish(repository, "gamma", 4, marked(4))
    assert v2.load(running.gateway_url, "gamma")[0] == 200
    assert mark(running.gateway_url, "gamma") == 4
    assert v2.infer(running.gateway_url, "gamma", VALUES, "4")[0] == 200


def test_after_a_restart_of_the_gateway_all_is_as_before(
    running: Cluster, repository: Path, alpha: str, beta: str
) -> None:
    publish(repository, alpha, 2, marked(2))
    assert v2.load(running.gateway_url, alpha)[0] == 200
    assert v2.unload(running.gateway_url, beta)[0] == 200
    running.kill("gateway")

    def back() -> bool:
        try:
            return infer(running.gateway_url, model=alpha, input_data=VALUES)[0] == 200
        except OSError:
            return False

    wait_until("the gateway is back", back)
    assert mark(running.gateway_url, alpha) == 2
    assert infer(running.gateway_url, model=beta, input_data=VALUES)[0] == 404


def test_a_worker_that_follows_a_gateway_takes_no_orders_of_clients(running: Cluster, alpha: str) -> None:
    status, answer = v2.unload(running.worker_urls["worker_1"], alpha)
    assert status == 400
    assert "gateway" in answer["error"]
    assert mark(running.worker_urls["worker_1"], alpha) == 1


def test_a_file_that_is_gone_does_not_stop_what_is_loaded(running: Cluster, repository: Path, beta: str) -> None:
    shutil.rmtree(repository / beta)
    assert mark(running.gateway_url, beta) == 11
    status, answer = v2.load(running.gateway_url, beta)
    assert status == 400
    assert beta in answer["error"]
    assert mark(running.gateway_url, beta) == 11
    publish(repository, beta, 1, marked(11))  # or workers that start again would miss it


def test_a_killed_worker_comes_back_with_every_model(running: Cluster, repository: Path, alpha: str, beta: str) -> None:
    publish(repository, alpha, 2, marked(2))
    assert v2.load(running.gateway_url, alpha)[0] == 200
    marks = {alpha: Marks({2}), beta: Marks({11})}
    # So many that the workers are asked too, not the gateway's own cache alone.
    mixed = [case for name, each in marks.items() for case in cases(name, each, 3_000)]
    with Load(running.gateway_url, mixed, connections=10, rate=200) as load:
        load.wait_for(50)
        running.kill("worker_2")
        load.wait_for_node("worker_2")
        load.wait_for(100)
    load.report.assert_no_failure()
    breakers = {(each["name"], each["model"]) for each in running.stats()["circuit_breakers"]}
    assert breakers >= {(worker, model) for worker in running.names for model in marks}


def test_a_rolling_restart_and_new_versions(running: Cluster, repository: Path, alpha: str, beta: str) -> None:
    """While everything is restarted one by one two new versions are loaded: nothing is lost, nothing goes back."""
    marks, others = Marks({1}), Marks({11})
    loaded = [0.0]
    with (
        Load(running.gateway_url, cases(alpha, marks, 3_000), connections=10, rate=100) as load,
        Load(running.gateway_url, cases(beta, others, 3_000), connections=10, rate=100) as beside,
    ):
        load.wait_for(50)
        os.kill(running.process.pid, signal.SIGHUP)
        for version in (2, 3):
            marks.allowed.add(version)
            publish(repository, alpha, version, marked(version, work=200))
            assert v2.load(running.gateway_url, alpha)[0] == 200
            loaded.append(time.monotonic())
        wait_until("all have been restarted", partial(restarted, running), 200)
        load.wait_for(50)
    load.report.assert_no_failure()
    beside.report.assert_no_failure()
    for answer, seen in zip(load.report.answers, marks.seen, strict=True):
        newest = sum(answer.began > moment for moment in loaded)
        assert seen >= newest, f"an answer of version {seen}, {answer.began - loaded[newest - 1]:.2f} s after {newest}"


def restarted(cluster: Cluster) -> bool:
    return "all have been restarted, in" in cluster.log


def test_the_only_model_answers_plain_requests_whatever_comes_later(make_cluster: Make, tmp_path: Path) -> None:
    root = tmp_path / "models"
    publish(root, "middle", 1, marked(1))
    running = make_cluster(workers=1, arguments=("--repository", str(root)))
    assert mark(running.gateway_url) == 1
    wait_until("it has been written down", lambda: running.health("worker_1")["settings"]["default_model"] == "middle")
    publish(root, "first", 1, marked(7))
    assert v2.load(running.gateway_url, "first")[0] == 200
    assert mark(running.gateway_url, "first") == 7
    assert mark(running.gateway_url) == mark(running.worker_urls["worker_1"]) == 1
    assert v2.unload(running.gateway_url, "middle")[0] == 200
    for url in (running.gateway_url, running.worker_urls["worker_1"]):
        wait_until("nobody answers in its place", partial(is_refused, url))


def is_refused(url: str) -> bool:
    return infer(url, input_data=VALUES)[0] == 404


def test_models_of_other_inputs_stand_side_by_side(make_cluster: Make, tmp_path: Path) -> None:
    """The same bytes asked of models of other types: each answers what it was asked."""
    root = tmp_path / "models"
    types = ("INT32", "FP32", "UINT32")
    for number, datatype in enumerate(types):
        publish(root, datatype.lower(), 1, typed(datatype, number))
    running = make_cluster(workers=2, arguments=("--repository", str(root)))
    for number, datatype in enumerate(types):
        inputs = [{"name": name, "shape": [2, 2], "datatype": datatype, "data": [1, 2, 3, 4]} for name in "ab"]
        for _ in range(3):
            status, answer = v2.call(running.gateway_url, f"models/{datatype.lower()}/infer", {"inputs": inputs})
            assert status == 200, answer
            found = {each["name"]: each for each in answer["outputs"]}
            assert found["a_again"]["datatype"] == datatype
            assert found["mark"]["data"] == [number]
            assert found["shape"]["data"] == [2, 2]
