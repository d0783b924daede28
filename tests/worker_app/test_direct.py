"""A client that asks a worker itself: its deadline, and what happens when it leaves."""

import asyncio
import json
import time
from typing import Any

from tests.worker_app.conftest import Start
from tests.worker_app.echo_engine import EchoEngine, echo_node
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
        await asyncio.wait_for(self.answered.wait(), 10)
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
    plane = DirectInfer(start(echo_node(EchoEngine(takes_s=0.4))))
    hasty, patient = Client(), Client()
    plane.infer(body(1), patient)
    plane.infer(body(1), hasty, 20)
    assert await hasty.answer() == 504
    assert (hasty.json["code"], hasty.json["request_id"]) == ("deadline_passed", "r")
    assert "20 ms" in hasty.json["error"]
    assert not patient.answered.is_set()
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
