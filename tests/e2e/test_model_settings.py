"""What operators say of one model in the admin: in force while it runs, for that model alone."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.e2e.adminsite import AdminSite
from tests.support import v2
from tests.support.cluster import Cluster
from tests.support.http import get, request
from tests.support.load import Load
from tests.support.processes import wait_until
from tests.support.repository import STEP, marked, publish
from tests.support.v2 import MarkedCase, Marks

VALUES = [1.0, 2.0, 3.0, 4.0]
Save = Callable[..., None]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """`quick` and `other`, `two` in two versions, and `slow`, a run of which takes over a tenth of a second."""
    directory = tmp_path_factory.mktemp("settings")
    repository = directory / "models"
    for name, version, work in (("quick", 1, 0), ("other", 1, 0), ("two", 1, 0), ("two", 2, 0), ("slow", 1, 10_000)):
        publish(repository, name, version, marked(version, work))
    arguments = ("--repository", str(repository))
    with Cluster(directory / "cluster", workers=1, arguments=arguments, env=ACCOUNT, calm=True) as cluster:
        yield cluster


ACCOUNT = {"DJANGO_SUPERUSER_USERNAME": "operator", "DJANGO_SUPERUSER_PASSWORD": "a-password-for-tests"}


@pytest.fixture(scope="module")
def site(running: Cluster) -> Iterator[AdminSite]:
    made = running.manage("createsuperuser", "--noinput", "--email", "operator@example.com")
    assert made.returncode == 0, made.stderr
    opened = AdminSite(running.gateway_url, "operator", ACCOUNT["DJANGO_SUPERUSER_PASSWORD"])
    yield opened
    opened.close()


@pytest.fixture
def save(running: Cluster, site: AdminSite) -> Save:
    """save(model, field=value, ...) returns when the worker follows it."""

    def change(name: str, **values: object) -> None:
        page = site.set_model(name, **values)
        assert "errorlist" not in page, page
        revision = site.newest_revision()
        wait_until(
            f"revision {revision} is in force",
            lambda: (
                running.health("worker_1")["settings"]["revision"] >= revision
                and running.stats()["gateway"]["revision"] >= revision
            ),
        )

    return change


def config(running: Cluster, model: str) -> dict[str, Any]:
    status, body = get(f"{running.gateway_url}/v2/models/{model}/config")
    assert status == 200, body
    return json.loads(body)


def infer(running: Cluster, model: str, values: list[float] = VALUES, **headers: str) -> tuple[int, dict[str, Any]]:
    body = {"request_id": "it", "model": model, "input_data": values}
    status, answer = request("POST", f"{running.gateway_url}/infer", json.dumps(body).encode(), headers)
    return status, json.loads(answer)


def test_results_that_are_not_kept(running: Cluster, save: Save) -> None:
    def cached(model: str) -> list[bool]:
        return [infer(running, model)[1]["cached"] for _ in range(4)]

    assert any(cached("quick"))
    save("quick", cached="false")
    assert not any(cached("quick"))
    assert any(cached("other"))
    wait_until("it is said", lambda: config(running, "quick")["response_cache"]["enable"] is False)
    assert config(running, "other")["response_cache"]["enable"] is True
    save("quick", cached="unknown")
    assert any(cached("quick"))


def test_rows_per_batch(running: Cluster, save: Save) -> None:
    save("other", batch_size=3, cached="false")
    wait_until("it is said", lambda: config(running, "other")["max_batch_size"] == 3)
    assert config(running, "quick")["max_batch_size"] == 32
    cases = [MarkedCase("other", (float(n), 0.0, 0.0, 0.0), "json", Marks({1})) for n in range(200)]
    with Load(running.gateway_url, cases, connections=30, total=1000) as load:
        load.finish().assert_no_failure()
    _, body = get(f"{running.worker_urls['worker_1']}/v2/models/other/stats")
    (found,) = json.loads(body)["model_stats"]
    assert max(each["batch_size"] for each in found["batch_stats"]) == 3
    save("other", batch_size="", cached="unknown")


def test_a_deadline_of_its_own(running: Cluster, save: Save) -> None:
    assert infer(running, "slow")[0] == 200
    save("slow", deadline_ms=50)
    assert infer(running, "slow", [5.0, 6.0, 7.0, 8.0])[0] == 504
    assert v2.infer(running.gateway_url, "slow", [6.0, 6.0, 7.0, 8.0])[0] == 504
    assert infer(running, "slow", [7.0, 6.0, 7.0, 8.0], **{"X-Request-Timeout-Ms": "60000"})[0] == 200


def test_two_versions_at_once(running: Cluster, save: Save) -> None:
    assert v2.infer(running.gateway_url, "two", VALUES, "1")[0] == 404
    save("two", versions="1, 2")
    wait_until("both are there", lambda: v2.index(running.gateway_url).get(("two", "1")) == "READY")
    for version in (1, 2):
        status, answer = v2.infer(running.gateway_url, "two", VALUES, str(version))
        assert status == 200, answer
        assert answer["model_version"] == str(version)
        assert answer["outputs"][0]["data"][0] == VALUES[0] + version * STEP
    assert v2.infer(running.gateway_url, "two", VALUES)[1]["model_version"] == "2"
    assert json.loads(get(f"{running.gateway_url}/v2/models/two")[1])["versions"] == ["1", "2"]
    breakers = [each["model"] for each in running.stats()["circuit_breakers"]]
    assert {"two/1", "two/2"} <= set(breakers)
    save("two", versions="1")
    wait_until("the other one is gone", lambda: v2.infer(running.gateway_url, "two", VALUES, "2")[0] == 404)
    assert v2.infer(running.gateway_url, "two", VALUES)[1]["model_version"] == "1"


def test_what_changes_answers_is_loaded_anew(running: Cluster, save: Save) -> None:
    status, answer = infer(running, "quick", [1.0, 2.0])
    assert status == 422, answer
    save("quick", pad_with_zeros="true")
    wait_until("short inputs are filled up", lambda: infer(running, "quick", [1.0, 2.0])[0] == 200)
    assert infer(running, "quick", [1.0, 2.0])[1]["output_data"] == [1 + STEP, 2 + STEP, STEP, STEP]
    assert infer(running, "other", [1.0, 2.0])[0] == 422


def test_the_default_model(running: Cluster, site: AdminSite) -> None:
    def plain() -> tuple[int, dict[str, Any]]:
        body = json.dumps({"request_id": "it", "input_data": [0.0, 0.0, 0.0, 0.0]}).encode()
        status, answer = request("POST", f"{running.gateway_url}/infer", body)
        return status, json.loads(answer)

    status, answer = plain()
    assert (status, answer["code"]) == (400, "model_required")
    site.set_model("two", versions="2")
    site.tune(default_model="two")
    wait_until("it is the default", lambda: plain()[1].get("output_data") == [2 * STEP] * 4)
    site.tune(default_model="")
    wait_until("there is none again", lambda: plain()[0] == 400)
    assert "errorlist" in site.tune(default_model="not a name/")


def test_an_invalid_value_is_refused(site: AdminSite) -> None:
    before = site.newest_revision()
    assert "errorlist" in site.set_model("quick", batch_size=0)
    assert "errorlist" in site.set_model("quick", padding_buckets="16, 32")
    assert "errorlist" in site.set_model("no/name")
    assert site.newest_revision() == before
