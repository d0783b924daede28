"""A client that asks a worker itself: its deadline, and what happens when it leaves."""

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest

from inference_site.lib.catalog import ModelSettings
from inference_site.lib.errors import ApiError
from inference_site.lib.nodesettings import NodeSettings
from inference_site.lib.record import Record
from tests.support.waiting import PATIENCE_S, until
from tests.worker_app.conftest import Start
from tests.worker_app.echo_engine import EchoEngine, echo_node
from tests.worker_app.file_engine import Shelf
from worker_app import direct as direct_module
from worker_app.direct import DirectInfer


class Client:
    """Keeps its one answer."""

    def __init__(self) -> None:
        self.answered = asyncio.Event()
        self.status = 0
        self.head = b""
        self.json: dict[str, Any] = {}

    def __call__(self, status: int, head: bytes, body: bytes) -> None:
        assert not self.answered.is_set(), "answered twice"
        self.status, self.head, self.json = status, head, json.loads(body)
        self.answered.set()

    async def answer(self) -> int:
        await asyncio.wait_for(self.answered.wait(), PATIENCE_S)
        return self.status


def body(number: int) -> bytes:
    return b'{"request_id": "r", "input_data": [%d, 0, 0, 0]}' % number


async def test_what_is_answered_at_once_has_no_ticket(start: Start) -> None:
    plane = DirectInfer(start(echo_node()))
    for text, status in ((b"{}", 400), (b'{"request_id": "r", "input_data": [1]}', 422)):
        client = Client()
        assert plane.infer(text, client, 1000) is None
        assert client.status == status
    first, second = Client(), Client()
    assert plane.infer(body(1), first, 60_000) is not None
    assert await first.answer() == 200
    assert plane.infer(body(1), second) is None
    assert (second.status, second.json["cached"]) == (200, True)


async def test_the_deadline_holds_whatever_the_engine_does(start: Start) -> None:
    engine = EchoEngine()
    engine.hold()
    plane = DirectInfer(start(echo_node(engine)))
    hasty, patient = Client(), Client()
    plane.infer(body(1), patient)
    plane.infer(body(1), hasty, 20)
    assert await hasty.answer() == 504
    assert (hasty.json["code"], hasty.json["request_id"]) == ("deadline_passed", "r")
    assert "20 ms" in hasty.json["error"]
    assert not patient.answered.is_set()
    engine.release()
    assert await patient.answer() == 200


async def test_a_deadline_that_the_node_finds_passed_is_told_once() -> None:
    node = echo_node()
    client = Client()
    DirectInfer(node).infer(body(1), client, 1)
    time.sleep(0.01)  # noqa: ASYNC251 - the loop does not come to run its timers meanwhile
    await node.models[1].run_batches()
    assert (client.status, client.json["code"]) == (504, "deadline_passed")
    await asyncio.sleep(0.01)
    node.close()


async def test_a_client_that_leaves_gets_nothing_and_its_work_is_dropped(start: Start) -> None:
    engine = EchoEngine()
    node = echo_node(engine)
    plane = DirectInfer(node)
    leavers, stayer = [Client() for _ in range(10)], Client()
    tickets = [plane.infer(body(number), client, 60_000) for number, client in enumerate(leavers)]
    plane.infer(body(10), stayer)
    for ticket in tickets:
        assert ticket is not None
        ticket.cancel()
        ticket.cancel()  # once more does no harm
    assert node.in_flight == 1
    start(node)
    assert await stayer.answer() == 200
    assert engine.ran == 1
    assert not any(client.answered.is_set() for client in leavers)


async def test_leaving_after_the_answer_does_nothing(start: Start) -> None:
    plane = DirectInfer(start(echo_node()))
    client = Client()
    ticket = plane.infer(body(1), client, 60_000)
    assert await client.answer() == 200
    assert ticket is not None
    ticket.cancel()


class Waiter:
    """An exchange.Asker that keeps what it is told."""

    def __init__(self) -> None:
        self.outputs: list[tuple[bytes, bool]] = []
        self.errors: list[tuple[int, str, bytes]] = []

    def on_output(self, output: bytes, node_json: bytes, cached: bool, time_us: int, headers: bytes, /) -> None:
        self.outputs.append((output, cached))

    def on_error(self, error: ApiError, headers: bytes, /) -> None:
        self.errors.append((error.status, error.code, headers))


def to(model: str, number: int = 1) -> bytes:
    return b'{"request_id": "r", "model": "%b", "input_data": [%d, 0]}' % (model.encode(), number)


async def test_a_body_may_name_its_model(start: Start, tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    for name in ("a", "b"):
        shelf.put(name, "1", f"word of {name}")
    plane = DirectInfer(start(shelf.node()))
    for name in ("a", "b"):
        client = Client()
        plane.infer(to(name), client)
        assert await client.answer() == 200
        assert client.json["output_data"] == [f"word of {name}", 1.0, 0.0]
    client = Client()
    assert plane.infer(to("c"), client) is None
    assert (client.status, client.json["code"], client.json["request_id"]) == (404, "unknown_model", "r")
    assert "this worker serves: a, b" in client.json["error"]


async def test_what_is_found_answers_asks_and_says_what_it_is(start: Start) -> None:
    plane = DirectInfer(start(echo_node(EchoEngine(), EchoEngine(name="other"))))
    served = plane.find("other", "1")
    assert (served.info.name, served.info.number) == ("other", 2)
    waiter = Waiter()
    for _ in range(2):
        served.ask(b"[1,2,3,4]", waiter)
        await until(lambda: waiter.outputs)
    assert waiter.outputs == [(b"[1.0,2.0,3.0,4.0]", False), (b"[1.0,2.0,3.0,4.0]", True)]
    assert served.ask(b"[1]", waiter) is None
    assert waiter.errors[0][:2] == (422, "wrong_input_size")
    assert plane.statistics("other", "1").cache_hits == 1
    assert plane.statistics("echo", "1").cache_hits == 0
    assert [info.name for info in plane.models()] == ["echo", "other"]
    for name, version, code in (("nobody", None, "unknown_model"), ("other", "2", "unknown_version")):
        with pytest.raises(ApiError) as refused:
            plane.find(name, version)
        assert (refused.value.status, refused.value.code) == (404, code)


async def test_the_deadline_of_the_models_record_holds_for_who_names_none(start: Start) -> None:
    engine = EchoEngine()
    engine.hold()
    node = echo_node(engine)
    settings = NodeSettings(models={"echo": ModelSettings(record=Record(deadline_ms=20))})
    model = node.models[1]
    model.configure(settings, Record(deadline_ms=20))
    plane = DirectInfer(start(node))
    client, patient = Client(), Client()
    plane.infer(body(1), client)
    assert await client.answer() == 504
    engine.release()
    plane.infer(body(2), patient, 60_000)
    assert await patient.answer() == 200


async def test_models_are_loaded_and_unloaded_here_while_there_is_no_gateway(start: Start, tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    shelf.put("a", "1", "one")
    node = start(shelf.node())
    plane = DirectInfer(node)
    shelf.put("a", "2", "two")
    shelf.put("b", "1", "new")
    await plane.load("a")
    assert plane.find("a", None).info.version == "2"
    await plane.load("b")
    await plane.unload("a")
    with pytest.raises(ApiError, match="unloaded"):
        plane.find("a", None)
    assert plane.find("b", None).info.name == "b"
    await plane.load("a")
    assert plane.find("a", None).info.version == "2"
    for name in ("nobody", "../a"):
        for order in (plane.load, plane.unload):
            with pytest.raises(ApiError) as refused:
                await order(name)
            assert (refused.value.status, refused.value.code) == (404, "unknown_model")


async def test_a_load_that_fails_says_why_and_leaves_what_serves(start: Start, tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    shelf.put("a", "1", "one")
    plane = DirectInfer(start(shelf.node()))
    shelf.put("a", "2", "broken in the middle")
    with pytest.raises(ApiError, match="broken in the middle") as refused:
        await plane.load("a")
    assert (refused.value.status, refused.value.code) == (400, "load_failed")
    assert plane.find("a", None).info.version == "1"


async def test_a_load_that_takes_too_long_is_not_waited_for(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(direct_module, "LOAD_WITHIN_S", 0.05)
    shelf = Shelf(tmp_path)
    shelf.put("a", "1", "one")
    plane = DirectInfer(start(shelf.node()))
    shelf.put("a", "2", "two")
    shelf.open.clear()
    with pytest.raises(ApiError, match="still being loaded") as refused:
        await plane.load("a")
    assert (refused.value.status, refused.value.code) == (503, "model_not_ready")
    shelf.open.set()
    await until(lambda: plane.find("a", None).info.version == "2")


async def test_a_worker_that_has_a_gateway_follows_it(start: Start) -> None:
    class Gateway:
        bulk = False
        uses: frozenset[int] | None = None

        def say_draining(self) -> None: ...

        def say_models(self) -> None: ...

    node = start(echo_node())
    node.joined(Gateway())
    plane = DirectInfer(node)
    for order in (plane.load, plane.unload):
        with pytest.raises(ApiError, match="follows its gateway") as refused:
            await order("echo")
        assert (refused.value.status, refused.value.code) == (400, "follows_gateway")


async def test_who_found_a_model_that_has_gone_meanwhile_is_told_to_come_again(start: Start, tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    shelf.put("a", "1", "one")
    plane = DirectInfer(start(shelf.node()))
    served = plane.find("a", None)
    await plane.unload("a")
    waiter = Waiter()
    assert served.ask(b"[1,2]", waiter) is None
    assert waiter.errors == [(503, "model_not_ready", b"x-node: worker_1\r\nx-cache: miss\r\nretry-after: 1\r\n")]
