"""Several models in one gateway, over workers that come, load, switch, fail and go."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway_app import modelcontrol
from gateway_app import orders as orders_module
from gateway_app.adoption import Adoption
from gateway_app.core.breaker import BreakerConfig, State
from gateway_app.figures.modelstats import model_rows
from gateway_app.figures.stats import health_of, stats_of
from gateway_app.gateway import Gateway
from gateway_app.models import ModelRecord
from gateway_app.snapshot import Snapshot, WorkerEntry
from inference_site.lib import asks, frames
from inference_site.lib.catalog import ModelInfo, ModelSettings
from inference_site.lib.catalog import State as ModelState
from inference_site.lib.errors import ApiError
from inference_site.lib.frames import Tell
from inference_site.lib.nodesettings import NodeSettings
from tests.gateway_app.core.fleet import PLAIN
from tests.gateway_app.scripted import INFERENCES, TOKEN, ScriptedWorker, Server, ready, result, until
from tests.worker_app.echo_engine import EchoEngine, echo_node
from worker_app.node import Node
from worker_app.stream import Stream

NAMES = ("worker_1", "worker_2", "worker_3")
POLICY = replace(PLAIN, breaker=BreakerConfig(), check_s=0.0)


class Told:
    """An Asker that keeps what it is told."""

    def __init__(self) -> None:
        self.outputs: list[bytes] = []
        self.errors: list[ApiError] = []
        self.headers = b""

    def on_output(self, output: bytes, node_json: bytes, cached: bool, time_us: int, headers: bytes, /) -> None:
        self.outputs.append(output)
        self.headers = headers

    def on_error(self, error: ApiError, headers: bytes, /) -> None:
        self.errors.append(error)
        self.headers = headers

    async def output(self) -> bytes:
        await until(lambda: self.outputs or self.errors)
        assert not self.errors, self.errors[0].message
        (found,) = self.outputs
        return found

    async def error(self) -> ApiError:
        await until(lambda: self.outputs or self.errors)
        (found,) = self.errors
        return found


class Cluster:
    """A gateway without a database, and scripted workers whose answers say by which model they were made."""

    def __init__(self) -> None:
        self.gateway = Gateway("secret")
        self.workers = {name: ScriptedWorker(name) for name in NAMES}
        self.servers: dict[str, Server] = {}
        self.snapshot = Snapshot(policy=POLICY)
        self.ticks: asyncio.Task[None] | None = None
        for worker in self.workers.values():
            worker.instance = f"the first {worker.name}"
            worker.output = self.maker(worker)

    @staticmethod
    def maker(worker: ScriptedWorker) -> Callable[[int, bytes], bytes]:
        def output(number: int, payload: bytes) -> bytes:
            info = next(info for info in worker.models if info.number == number)
            return json.dumps([info.name, info.version, info.digest]).encode()

        return output

    async def start(self, *models: ModelInfo) -> None:
        for name, worker in self.workers.items():
            worker.models = models or worker.models
            self.servers[name] = Server(worker)
        self.configure(
            workers=tuple(WorkerEntry(name, "127.0.0.1", server.port) for name, server in self.servers.items())
        )
        await until(lambda: all(link.ready for link in self.gateway.links.values()))

    def configure(self, *, models: dict[str, ModelSettings] | None = None, **changes: Any) -> None:
        """A new revision."""
        if models is not None:
            changes["node"] = NodeSettings(models=models)
        self.snapshot = replace(self.snapshot, revision=self.snapshot.revision + 1, **changes)
        self.gateway.in_force.take(self.snapshot)

    def ask(self, payload: bytes = b"[1]", name: str | None = None, version: str | None = None) -> Told:
        told = Told()
        self.gateway.find(name, version).ask(payload, told)
        return told

    async def answer(self, payload: bytes = b"[1]", name: str | None = None, version: str | None = None) -> list[str]:
        """[name, version, digest] of the model that has answered."""
        found: list[str] = json.loads(await self.ask(payload, name, version).output())
        return found

    async def tell(self, name: str, *models: ModelInfo) -> None:
        """A worker says what it has from now on, and the gateway has heard it: that, and not what the worker said once
        more when its settings came."""
        await self.workers[name].tell_models(*models)
        await until(lambda: self.gateway.lineup.catalog._workers[name].models.models == models)

    def numbers(self, name: str = "echo", version: str = "1") -> dict[str, int]:
        routes = self.gateway.lineup.served[name, version].router.routes
        return {each: route.number for each, route in routes.items() if route.up}

    async def end(self) -> None:
        await self.gateway.stop()
        for server in self.servers.values():
            if not server.task.done():
                await server.die()


@pytest.fixture
async def cluster(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Cluster]:
    made = Cluster()
    yield made
    await made.end()


def inputs(count: int) -> list[bytes]:
    return [b"[%d]" % number for number in range(count)]


async def test_each_model_is_found_by_its_name_and_has_counts_of_its_own(cluster: Cluster) -> None:
    await cluster.start(ready(1), ready(2, "other"), ready(3, "other", "2"))
    assert await cluster.answer() == ["echo", "1", "0"]
    assert await cluster.answer(name="other") == ["other", "2", "0"]
    assert await cluster.answer(name="other", version="1") == ["other", "1", "0"]
    rows = {(row["name"], row["version"]): row for row in model_rows(cluster.gateway)}
    assert {key: row["requests"] for key, row in rows.items()} == {
        ("echo", "1"): 1, ("other", "1"): 1, ("other", "2"): 1,
    }  # fmt: skip
    assert [key for key, row in rows.items() if row["default"]] == [("echo", "1")]
    assert rows["other", "2"]["workers"] == [
        {"name": name, "state": "READY", "reason": "", "number": 3} for name in NAMES
    ]
    stats = stats_of(cluster.gateway)
    assert [each["model"] for each in stats["circuit_breakers"]] == ["echo", "other/1", "other/2"] * 3
    assert stats["gateway"]["requests"] == 3


async def test_with_one_model_there_is_one_breaker_for_each_worker(cluster: Cluster) -> None:
    cluster.configure(workers=(WorkerEntry("worker_1", "127.0.0.1", 1),))
    before = stats_of(cluster.gateway)["circuit_breakers"]
    await cluster.start()
    after = stats_of(cluster.gateway)["circuit_breakers"]
    assert [(each["name"], each["model"]) for each in before] == [("worker_1", "")]
    assert [(each["name"], each["model"]) for each in after] == [(name, "echo") for name in NAMES]


async def test_who_knows_no_model_yet_says_why(cluster: Cluster) -> None:
    told = Told()
    cluster.gateway.find(None, None).ask(b"[1]", told)
    assert (await told.error()).code == "no_workers"
    for worker in cluster.workers.values():
        worker.models = ()
    await cluster.start()
    with pytest.raises(ApiError, match="the workers have no model ready") as refusal:
        cluster.gateway.find(None, None)
    assert (refusal.value.status, refusal.value.code) == (503, "model_not_ready")


async def test_workers_whose_only_model_is_unloaded_are_well(cluster: Cluster) -> None:
    await cluster.start()
    off = ModelInfo(number=0, name="echo", version="1", state=ModelState.UNAVAILABLE, reason="unloaded")
    cluster.configure(models={"echo": ModelSettings(loaded=False)})
    for name in NAMES:
        await cluster.tell(name, off)
    assert health_of(cluster.gateway)["healthy"]
    assert [(row["routable"], row["idle"]) for row in stats_of(cluster.gateway)["workers"]] == [(False, True)] * 3
    broken = ModelInfo(number=0, name="echo", version="1", state=ModelState.UNAVAILABLE, reason="it is truncated")
    for name in NAMES:
        await cluster.tell(name, broken)
    assert not health_of(cluster.gateway)["healthy"]


async def test_what_is_not_served_is_told_apart(cluster: Cluster) -> None:
    slow = ModelInfo(number=0, name="slow", version="1", state=ModelState.LOADING)
    bad = ModelInfo(number=0, name="bad", version="1", state=ModelState.UNAVAILABLE, reason="it is truncated")
    await cluster.start(ready(1), slow, bad)
    cluster.configure(models={"off": ModelSettings(loaded=False)})

    def refusal(name: str, version: str | None = None) -> tuple[int, str]:
        with pytest.raises(ApiError) as found:
            cluster.gateway.find(name, version)
        assert name in found.value.message
        return found.value.status, found.value.code

    assert refusal("slow") == refusal("bad") == (503, "model_not_ready")
    assert refusal("off") == refusal("nothing") == (404, "unknown_model")
    assert refusal("echo", "7") == (404, "unknown_version")
    with pytest.raises(ApiError, match="it is truncated"):
        cluster.gateway.find("bad", None)
    answers: list[tuple[int, dict[str, Any]]] = []
    body = b'{"request_id":"r","input_data":[1],"model":"nothing"}'
    cluster.gateway.infer(body, lambda status, head, answer: answers.append((status, json.loads(answer))))
    assert [(status, body["code"], body["request_id"]) for status, body in answers] == [(404, "unknown_model", "r")]


def plain(cluster: Cluster, body: bytes = b'{"request_id":"r","input_data":[1]}') -> list[tuple[int, dict[str, Any]]]:
    """What a request to /infer is answered with, in time."""
    answers: list[tuple[int, dict[str, Any]]] = []
    cluster.gateway.infer(body, lambda status, head, answer: answers.append((status, json.loads(answer))))
    return answers


async def test_a_plain_request_asks_the_only_model_whatever_else_comes_and_never_another_one(cluster: Cluster) -> None:
    for worker in cluster.workers.values():
        worker.default = ""
    await cluster.start(ready(1, "main"))
    assert await cluster.answer() == ["main", "1", "0"]
    for name in NAMES:
        await cluster.tell(name, ready(2, "another"), ready(1, "main"))
    assert await cluster.answer() == ["main", "1", "0"]
    cluster.configure(models={"main": ModelSettings(loaded=False)})
    ((status, body),) = plain(cluster)
    assert (status, body["code"], "'main' is unloaded" in body["error"]) == (404, "unknown_model", True)
    for name in NAMES:
        await cluster.tell(name, ready(2, "another"))
    cluster.configure(models={})
    ((status, body),) = plain(cluster)
    assert (status, "'main', which is set as the model of /infer" in body["error"]) == (404, True)


async def test_with_several_models_and_none_set_a_plain_request_must_name_one(cluster: Cluster) -> None:
    for worker in cluster.workers.values():
        worker.default = ""
    await cluster.start(ready(1, "b"), ready(2, "a"))
    ((status, body),) = plain(cluster)
    assert (status, body["code"], body["request_id"]) == (400, "model_required", "r")
    assert body["error"].startswith('several models are here: a, b; name one in "model", or set')
    assert await cluster.answer(name="b") == ["b", "1", "0"]
    assert not any(row["default"] for row in model_rows(cluster.gateway))
    cluster.configure(node=NodeSettings(default_model="a"))
    assert await cluster.answer() == ["a", "1", "0"]


async def test_the_only_model_is_recorded_as_the_one_of_plain_requests(cluster: Cluster) -> None:
    for worker in cluster.workers.values():
        worker.default = ""
    recorded: list[str] = []
    cluster.gateway._adoption = Adoption(time.monotonic, recorded.append)
    cluster.gateway.spawn(cluster.gateway._tick_each_second())
    await cluster.start(ready(1, "main"))
    await until(lambda: recorded == ["main"])


async def test_a_model_of_no_name_is_none(cluster: Cluster) -> None:
    await cluster.start(ready(1), ready(2, "other"))
    ((status, body),) = plain(cluster, b'{"request_id":"r","input_data":[1],"model":""}')
    assert (status, body["code"]) == (400, "invalid_model")


@pytest.mark.parametrize(("version", "digest"), [("1", "new"), ("2", "new")])
async def test_a_switch_under_load_loses_nothing_and_nothing_old_is_answered_after_it(
    cluster: Cluster, version: str, digest: str
) -> None:
    await cluster.start()
    hot = [await cluster.answer(b"[0]") for _ in range(8)]
    assert hot == [["echo", "1", "0"]] * 8
    asked: list[tuple[bool, Told]] = []
    stop = False

    async def load() -> None:
        number = 0
        while not stop:
            number += 1
            switched = cluster.gateway.find(None, None).info.digest == digest
            asked.append((switched, cluster.ask(b"[%d]" % (number % 40))))
            await asyncio.sleep(0)

    loading = asyncio.create_task(load())
    await asyncio.sleep(0.05)
    for name in NAMES:
        waits = ModelInfo(number=0, name="echo", version=version, state=ModelState.LOADING)
        await cluster.tell(name, ready(1), waits)
        await asyncio.sleep(0.02)
    for name in NAMES:
        assert cluster.gateway.find(None, None).info.digest == "0"
        await cluster.tell(name, ready(1, current=False), ready(2, version=version, digest=digest))
        await asyncio.sleep(0.02)
    assert cluster.gateway.find(None, None).info.digest == digest
    await asyncio.sleep(0.05)
    await until(lambda: all(worker.used() == {2} for worker in cluster.workers.values()))
    for name in NAMES:
        await cluster.tell(name, ready(2, version=version, digest=digest))
    await asyncio.sleep(0.05)
    stop = True
    await loading
    assert sum(switched for switched, _ in asked) > 20
    for switched, told in asked:
        answer = json.loads(await told.output())
        assert answer[2] == digest if switched else answer[2] in ("0", digest)
    assert cluster.gateway.in_flight == 0


async def test_a_worker_that_cannot_load_it_keeps_the_old_one_and_says_why(cluster: Cluster) -> None:
    await cluster.start()
    for name in NAMES[:2]:
        await cluster.tell(name, ready(1, current=False), ready(2, digest="new"))
    broken = ModelInfo(number=0, name="echo", version="1", state=ModelState.UNAVAILABLE, reason="it is truncated")
    await cluster.tell(NAMES[2], ready(1), broken)
    assert {(await cluster.answer(each))[2] for each in inputs(30)} == {"0"}
    assert cluster.numbers() == dict.fromkeys(NAMES, 1)
    await until(lambda: all(worker.used() == {1} for worker in cluster.workers.values()))
    (row,) = model_rows(cluster.gateway)
    assert (row["state"], row["digest"]) == ("READY", "0")
    assert row["workers"][2] == {
        "name": NAMES[2], "state": "READY", "number": 1,
        "reason": "the last change is not in force: it is truncated; what was loaded serves on",
    }  # fmt: skip
    said = "the last change is not in force: worker_3: it is truncated; what was loaded serves on"
    assert row["reason"] == said
    assert [(info.state, info.reason) for info in cluster.gateway.models()] == [(ModelState.READY, said)]


async def test_what_the_old_version_has_begun_it_ends_before_it_is_let_go(cluster: Cluster) -> None:
    await cluster.start()
    for worker in cluster.workers.values():
        worker.answers = False
    told = cluster.ask()
    (worker,) = [each for each in cluster.workers.values() if await asked(each)]
    for name in NAMES:
        await cluster.tell(name, ready(1, current=False), ready(2, version="2"))
    assert cluster.gateway.find(None, None).info.version == "2"
    assert cluster.gateway.in_flight == 1
    await until(lambda: worker.used() == {1, 2})
    ((ident, payload),) = worker.asked
    await worker.open[0].send(result(ident, payload, b"[5]"))
    assert await told.output() == b"[5]"
    cluster.gateway.lineup.end_idle()
    await until(lambda: all(each.used() == {2} for each in cluster.workers.values()))
    assert cluster.gateway.lineup.totals().requests == 1  # what is gone has been counted


async def asked(worker: ScriptedWorker) -> bool:
    await asyncio.sleep(0.05)
    return bool(worker.asked)


async def test_a_number_that_is_gone_costs_no_attempt_and_others_answer(cluster: Cluster) -> None:
    await cluster.start()
    owner = cluster.gateway.lineup.served["echo", "1"].router.ring.owners(
        asks.key_of(b"[1]", asks.seed_of("echo", "1"))
    )
    cluster.workers[owner[0]].models = ()  # without saying so
    told = cluster.ask()
    await told.output()
    assert b"x-attempts: 1" in told.headers
    assert cluster.numbers() == {name: 1 for name in NAMES if name != owner[0]}
    assert cluster.gateway.links[owner[0]].routes[0].breaker.failures == 0
    await cluster.tell(owner[0], ready(4))
    assert cluster.numbers()[owner[0]] == 4


async def test_gone_everywhere_is_no_workers_failure(cluster: Cluster) -> None:
    await cluster.start()
    for worker in cluster.workers.values():
        worker.models = ()
    error = await cluster.ask().error()
    assert (error.status, error.code) == (503, "no_worker_available")
    assert "has not loaded it" in error.message
    assert all(route.breaker.state is State.CLOSED for route in cluster.gateway.lineup.routes(NAMES[0]))


async def test_a_call_that_was_under_way_to_an_old_number_goes_to_the_new_one_of_the_same_worker(
    cluster: Cluster,
) -> None:
    cluster.workers = {"worker_1": cluster.workers["worker_1"]}
    (worker,) = cluster.workers.values()
    await cluster.start()
    worker.answers = False
    told = cluster.ask()
    await until(lambda: worker.asked)
    await cluster.tell("worker_1", ready(2, digest="new"))
    worker.answers = True
    ((ident, _),) = worker.asked
    await worker.open[0].send(frames.tell(Tell.GONE, ident, b""))
    assert json.loads(await told.output())[2] == "new"
    assert b"x-attempts: 1" in told.headers


async def test_one_models_failures_leave_the_others_alone(cluster: Cluster) -> None:
    await cluster.start(ready(1), ready(2, "other"))
    for worker in cluster.workers.values():
        worker.output = lambda number, payload: b"[0]"
    sick = cluster.workers["worker_1"]
    link = cluster.gateway.links["worker_1"]
    echo, other = (model.router.routes["worker_1"] for model in cluster.gateway.lineup.served.values())
    for _ in range(5):
        echo.breaker.failure(1, "no memory for this model")
    assert (echo.breaker.state, other.breaker.state) == (State.OPEN, State.CLOSED)
    assert link.ready
    for each in inputs(40):
        await cluster.ask(each, "echo").output()
        await cluster.ask(each, "other").output()
    assert {kind[1] for kind in sick.open[0].asks if kind[0] in INFERENCES} == {2}
    (event,) = [each for each in cluster.gateway.events.recent if each.kind == "breaker"]
    assert event.reason.startswith("echo: 5 failures")


async def test_what_is_larger_than_a_worker_takes_is_refused_and_cuts_no_stream(
    cluster: Cluster, settings: Any
) -> None:
    settings.MAX_BODY_BYTES = 2000
    await cluster.start()
    fits, too_large = b"[%b]" % (b" " * 2000), b"[%b]" % (b" " * 2100)
    await cluster.ask(fits).output()
    told = cluster.ask(too_large)
    ((status, code),) = [(error.status, error.code) for error in told.errors]
    assert (status, code, "2102 bytes" in told.errors[0].message) == (413, "body_too_large", True)
    assert cluster.gateway.lineup.totals().client_errors == 1
    worker = cluster.workers["worker_2"]  # one that takes less than the others
    worker.max_ask_bytes = 1000
    for each in worker.open:
        await each.close()
    await until(lambda: cluster.gateway.links["worker_2"].max_ask_bytes and "worker_2" in cluster.numbers())
    assert (await cluster.ask(fits).error()).status == 413
    await cluster.ask(b"[%b]" % (b" " * 1000)).output()
    assert {len(payload) for each in cluster.workers.values() for _, payload in each.asked} == {2002, 1002}


async def test_a_worker_without_a_model_is_passed_over(cluster: Cluster) -> None:
    await cluster.start(ready(1), ready(2, "other"))
    await cluster.tell("worker_2", ready(1))
    assert cluster.numbers("other") == {"worker_1": 2, "worker_3": 2}
    for each in inputs(40):
        assert await cluster.answer(each, "other") == ["other", "1", "0"]
    await until(lambda: cluster.workers["worker_2"].used() == {1})


async def test_a_new_process_is_asked_under_its_own_numbers_and_not_before_it_has_its_settings(
    cluster: Cluster,
) -> None:
    await cluster.start()
    worker = cluster.workers["worker_1"]
    await cluster.servers["worker_1"].die()
    await until(lambda: "worker_1" not in cluster.numbers())
    worker.instance, worker.models, worker.says_models = "second", (ready(9),), False
    port = cluster.servers["worker_1"].port
    cluster.servers["worker_1"] = Server(worker, port)
    await until(lambda: cluster.gateway.links["worker_1"].up)
    await until(lambda: worker.revision == cluster.snapshot.revision)
    worker.revision -= 1
    await worker.tell_models()
    await asyncio.sleep(0.1)
    assert not cluster.gateway.links["worker_1"].ready  # that is what it had by older settings
    assert {(await cluster.answer(each))[0] for each in inputs(20)} == {"echo"}
    worker.revision += 1
    await worker.tell_models()
    await until(lambda: cluster.numbers().get("worker_1") == 9)
    await until(lambda: worker.used() == {9})


async def test_the_model_is_known_while_its_workers_are_away(cluster: Cluster) -> None:
    await cluster.start()
    for server in cluster.servers.values():
        await server.die()
    await until(lambda: not any(link.ready for link in cluster.gateway.links.values()))
    assert (await cluster.ask().error()).code == "no_worker_available"
    assert cluster.gateway.find("echo", None).info.state is ModelState.UNAVAILABLE
    assert [info.state for info in cluster.gateway.models()] == [ModelState.UNAVAILABLE]


async def test_what_is_not_to_be_kept_is_computed_each_time_and_a_model_may_have_its_own_deadline(
    cluster: Cluster,
) -> None:
    await cluster.start(ready(1, cached=False, deadline_ms=150))
    for _ in range(6):
        await cluster.answer()
    assert sum(len(worker.asked) for worker in cluster.workers.values()) == 6
    for worker in cluster.workers.values():
        worker.answers = False
    told = cluster.ask()
    while not told.errors:
        await asyncio.sleep(0.02)
        for model in cluster.gateway.lineup:
            model.router.tick()
    assert (told.errors[0].code, "0.15 s" in told.errors[0].message) == ("deadline_passed", True)


async def test_statistics_are_those_of_all_workers_and_of_the_gateways_own_cache(cluster: Cluster) -> None:
    await cluster.start()
    counts = {"success": 5, "inferences": 4, "executions": 2, "batches": {"2": [2, 100]}, "last_inference_ms": 7}
    for name, worker in cluster.workers.items():
        said = {"models": [{"number": 1, "limit": 777, "statistics": counts}, {"number": 3, "statistics": counts}]}
        await worker.open[0].send(frames.tell(Tell.STATS, 0, json.dumps(said).encode()))
        await until(lambda: cluster.gateway.links[name].stats)  # noqa: B023 it is waited for here
    for _ in range(10):
        await cluster.answer()
    found = cluster.gateway.statistics("echo", "1")
    hits = cluster.gateway.lineup.totals().hot_hits
    assert hits > 0
    assert (found.success, found.inferences, found.executions) == (15 + hits, 12, 6)
    assert (found.cache_hits, found.batches, found.last_inference_ms) == (hits, {2: (6, 300)}, 7)
    assert {route.limit for route in cluster.gateway.lineup.served["echo", "1"].router.routes.values()} == {777}
    with pytest.raises(ApiError):
        cluster.gateway.statistics("nothing", "1")


async def test_statistics_never_go_down(cluster: Cluster) -> None:
    await cluster.start()

    async def push(number: int = 1, **counts: int) -> None:
        link = cluster.gateway.links["worker_1"]
        before = link.stats
        said = {"models": [{"number": number, "statistics": counts}]}
        await cluster.workers["worker_1"].open[0].send(frames.tell(Tell.STATS, 0, json.dumps(said).encode()))
        await until(lambda: link.stats is not before)

    def told() -> tuple[int, int, int]:
        found = cluster.gateway.statistics("echo", "1")
        return found.success, found.fail, found.cache_misses

    await push(success=100, fail=5, cache_misses=50)
    assert told() == (100, 5, 50)
    router = cluster.gateway.lineup.served["echo", "1"].router
    router.second_opinions = 2  # of which the worker's numbers do not tell yet
    assert told() == (100, 5, 50)
    await push(success=100, fail=8, cache_misses=54)
    assert told() == (100, 6, 52)
    worker = cluster.workers["worker_1"]
    await cluster.servers["worker_1"].die()
    await until(lambda: "worker_1" not in cluster.numbers())
    assert told() == (100, 6, 52)
    worker.instance = "the second worker_1"
    cluster.servers["worker_1"] = Server(worker, cluster.servers["worker_1"].port)
    await until(lambda: cluster.numbers().get("worker_1"))
    assert told() == (100, 6, 52)  # its numbers are not those of the process before
    await push(success=1, fail=1, cache_misses=1)
    assert told() == (101, 7, 53)
    await cluster.tell("worker_1", ready(1, "other"))
    for name in NAMES[1:]:
        await cluster.tell(name, ready(1, "other"))
    await until(lambda: not cluster.gateway.lineup.ending)
    for name in NAMES:
        await cluster.tell(name, ready(2))
    await until(lambda: len(cluster.numbers()) == 3)
    await push(2, success=2, fail=1, cache_misses=1)
    assert told() == (102, 7, 53)  # the gateway's part of it is not forgotten


# Orders.


@pytest.fixture
def orders(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """What has been ordered; each is a revision that the gateway is shown."""
    given: list[tuple[str, bool]] = []
    loop = asyncio.get_event_loop_policy().get_event_loop()

    def order(name: str, loaded: bool) -> int:
        given.append((name, loaded))
        wish = {name: ModelSettings(loaded=loaded, order=len(given))}
        revision = cluster.snapshot.revision + 1
        loop.call_soon_threadsafe(lambda: cluster.configure(models=wish))
        return revision

    monkeypatch.setattr(orders_module, "_order_load", lambda name: (True, order(name, True)))
    monkeypatch.setattr(orders_module, "_take_back", lambda name: given.append((name, False)))
    monkeypatch.setattr(modelcontrol, "order_unload", lambda name, note="": order(name, False))
    return given


async def settle(cluster: Cluster, *models: ModelInfo, only: str = "") -> None:
    """Workers answer the newest settings with these models."""
    for name, worker in cluster.workers.items():
        await until(lambda: worker.revision == cluster.snapshot.revision)  # noqa: B023
        if not only or name == only:
            await worker.tell_models(*models)


async def test_loading_returns_once_all_workers_serve_it(cluster: Cluster, orders: list[tuple[str, bool]]) -> None:
    await cluster.start()
    for worker in cluster.workers.values():
        worker.says_models = False
    loading = asyncio.create_task(cluster.gateway.load("echo"))
    await until(lambda: orders)
    waits = ModelInfo(number=0, name="echo", version="2", state=ModelState.LOADING)
    await settle(cluster, ready(1), waits)
    await asyncio.sleep(0.1)
    assert not loading.done()
    for name in NAMES:
        assert not loading.done()
        await settle(cluster, ready(1, current=False), ready(2, version="2"), only=name)
    await loading
    assert orders == [("echo", True)]
    assert await cluster.answer() == ["echo", "2", "0"]


async def test_loading_what_a_worker_cannot_load_says_so_and_the_old_one_serves_on(
    cluster: Cluster, orders: list[tuple[str, bool]]
) -> None:
    await cluster.start()
    for worker in cluster.workers.values():
        worker.says_models = False
    loading = asyncio.create_task(cluster.gateway.load("echo"))
    await until(lambda: orders)
    broken = ModelInfo(number=0, name="echo", version="2", state=ModelState.UNAVAILABLE, reason="it is truncated")
    await settle(cluster, ready(1), broken)
    with pytest.raises(ApiError, match="it is truncated") as refusal:
        await loading
    assert (refusal.value.status, refusal.value.code) == (400, "load_failed")
    assert await cluster.answer() == ["echo", "1", "0"]


async def test_loading_what_no_worker_has_found_is_refused(cluster: Cluster, orders: list[tuple[str, bool]]) -> None:
    await cluster.start()
    with pytest.raises(ApiError, match="no worker has found a model 'nothing'") as refusal:
        await cluster.gateway.load("nothing")
    assert (refusal.value.status, refusal.value.code) == (404, "unknown_model")
    assert orders == [("nothing", True), ("nothing", False)]  # nothing is left of it


async def test_loading_while_no_worker_is_there_is_no_success_and_nothing_older_is_answered_from_the_cache(
    cluster: Cluster, orders: list[tuple[str, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orders_module, "ALONE_S", 0.2)
    await cluster.start()
    for _ in range(8):
        await cluster.answer()
    assert cluster.gateway.lineup.totals().hot_entries == 1
    for server in cluster.servers.values():
        await server.die()
    await until(lambda: not any(link.ready for link in cluster.gateway.links.values()))
    with pytest.raises(ApiError, match="no worker is connected") as refusal:
        await cluster.gateway.load("echo")
    assert (refusal.value.status, refusal.value.code) == (503, "model_not_ready")
    assert (await cluster.ask().error()).code == "no_worker_available"


async def test_what_no_worker_has_found_on_disk_is_unknown(cluster: Cluster) -> None:
    missing = ModelInfo(number=0, name="typo", version="", state=ModelState.UNAVAILABLE, reason="there is no /a/path")
    await cluster.start(ready(1), missing)
    with pytest.raises(ApiError) as refusal:
        cluster.gateway.find("typo", None)
    assert (refusal.value.status, refusal.value.code) == (404, "unknown_model")
    assert "/a/path" not in refusal.value.message


async def test_an_order_is_a_row_that_goes_again_if_there_is_no_such_model(
    database: Path,
) -> None:
    is_new, revision = await asyncio.to_thread(orders_module._order_load, "typo")
    assert is_new
    again, later = await asyncio.to_thread(orders_module._order_load, "typo")
    assert (again, later > revision) == (False, True)
    await asyncio.to_thread(orders_module._take_back, "typo")
    assert not await asyncio.to_thread(ModelRecord.objects.filter(name="typo").exists)


async def test_results_of_real_workers_move_along_when_one_of_them_leaves() -> None:
    """Over real links, from a real worker with two models to another one."""
    cluster, nodes = Cluster(), {}
    try:
        for name in NAMES[:2]:
            nodes[name] = echo_node(EchoEngine(), EchoEngine(name="other"), name=name)
            nodes[name].start()
            cluster.servers[name] = Server(app_of(nodes[name]))
        cluster.configure(
            workers=tuple(WorkerEntry(name, "127.0.0.1", server.port) for name, server in cluster.servers.items())
        )
        await until(lambda: all(link.ready for link in cluster.gateway.links.values()))
        texts = [b"[%d,0,0,0]" % number for number in range(20)]
        for text in texts:
            for model in ("echo", "other"):
                await cluster.ask(text, model).output()
        leaver, heir = (nodes[name] for name in NAMES[:2])
        had = {model.name: len(model.results) for model in leaver.models.values()}
        assert min(had.values()) > 0
        leaver.drain()
        await until(lambda: {m.name: m.tally.kept for m in heir.models.values()} == had)
        assert cluster.gateway.links[NAMES[0]].sharing == 0
    finally:
        await cluster.end()
        for node in nodes.values():
            node.close()


def app_of(node: Node) -> Callable[[Any, Any, Any], Awaitable[None]]:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await Stream(node, TOKEN, send, bulk=scope["query_string"] == b"bulk").serve(scope, receive)

    return app


async def test_a_second_that_fails_is_not_the_last(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """What workers report goes into these figures: a bug there must not end the counting for good."""
    await cluster.start()
    ticks: list[int] = []

    def tick(gateway: object) -> None:
        ticks.append(len(ticks))
        raise RuntimeError("a figure that can't be told")

    monkeypatch.setattr(cluster.gateway.history, "tick", tick)
    cluster.gateway.spawn(cluster.gateway._tick_each_second())
    await until(lambda: len(ticks) >= 2)
