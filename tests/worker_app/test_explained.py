"""What a worker says of requests that are to be explained, to gateways and to clients of its own."""

import asyncio
import json
import threading
import time
from typing import Any

import msgspec
import pytest

from inference_site.lib import frames
from inference_site.lib.frames import Ask, Cache, Tell
from inference_site.lib.trace import Detail
from inference_site.plain import PlainAsker
from tests.support.waiting import PATIENCE_S
from tests.worker_app.conftest import Start
from tests.worker_app.echo_engine import EchoEngine, echo_node
from tests.worker_app.gateway_side import Connect, GatewaySide, infer, proven, the_model
from worker_app.direct import DirectInfer
from worker_app.node import Node


def explain(ident: int, *values: float, kind: Ask = Ask.EXPLAIN, model: int = 1) -> bytes:
    return frames.ask(kind, ident, json.dumps(values).encode(), 0, model)


def details(side: GatewaySide) -> dict[int, Detail]:
    return {reply[3]: msgspec.json.decode(reply[5], type=Detail) for reply in side.of(Tell.TRACE)}


async def answered(side: GatewaySide, count: int = 1) -> None:
    kinds = (Tell.RESULT, Tell.REFUSED, Tell.FAILED, Tell.GONE, Tell.EXPIRED)
    await side.until(lambda: len(side.of(*kinds)) >= count)


async def test_a_trace_comes_just_before_the_result(connect: Connect, start: Start) -> None:
    side = await proven(connect, start(echo_node(EchoEngine(takes_s=0.05))))
    began = time.monotonic()
    side.give(explain(5, 1, 2, 3, 4))
    await answered(side)
    took_us = (time.monotonic() - began) * 1e6
    kinds = [(reply[0], reply[3]) for reply in side.replies if reply[3] == 5]
    assert kinds == [(Tell.TRACE, 5), (Tell.RESULT, 5)]
    (result,) = side.of(Tell.RESULT)
    detail = details(side)[5]
    assert detail.batch is not None
    assert (detail.batch.rows, detail.batch.requests, detail.batch.release, detail.batch.session) == (1, 1, "free", 0)
    assert detail.compute_us == 6  # what the engine says: 1000, 2000 and 3000 ns
    assert detail.queue_us + detail.compute_us <= result[4] <= took_us


async def test_who_does_not_want_it_gets_none(connect: Connect, start: Start) -> None:
    side = await proven(connect, start(echo_node()))
    side.give(infer(1, 1, 2, 3, 4))
    await answered(side)
    assert not side.of(Tell.TRACE)


async def test_what_waits_behind_a_run_waits_in_the_queue(connect: Connect, start: Start) -> None:
    engine = EchoEngine()
    engine.hold()
    node = start(echo_node(engine))
    side = await proven(connect, node)
    side.give(infer(1, 1, 1, 1, 1))
    await side.until(lambda: engine.runs)
    side.give(explain(2, 2, 2, 2, 2) + infer(3, 3, 3, 3, 3) + explain(4, 2, 2, 2, 2))
    await side.until(lambda: node.in_flight == 3)
    await asyncio.sleep(0.05)
    engine.release()
    await answered(side, 4)
    found = details(side)
    assert set(found) == {2, 4}
    assert found[2].queue_us > 45_000
    # Two inputs; the one that has joined is a request too.
    batches = [each.batch for each in found.values()]
    assert batches[0] == batches[1]
    assert batches[0] is not None
    assert (batches[0].id, batches[0].rows, batches[0].requests) == (2, 2, 3)
    assert {reply[3]: reply[1] for reply in side.of(Tell.RESULT)}[4] == Cache.JOINED


async def test_who_joins_while_it_runs_has_not_waited_for_all_of_it(connect: Connect, start: Start) -> None:
    began, go_on = threading.Event(), threading.Event()

    class Gated(EchoEngine):
        def run(self, samples: Any, session: int = 0) -> Any:
            began.set()
            assert go_on.wait(PATIENCE_S)
            return super().run(samples, session)._replace(infer_ns=10**12)  # longer than anybody has waited

    node = start(echo_node(Gated(takes_s=0.2)))
    side = await proven(connect, node)
    side.give(explain(1, 1, 2, 3, 4))
    await side.until(began.is_set)
    await asyncio.sleep(0.05)
    side.give(explain(2, 1, 2, 3, 4))
    await side.until(lambda: the_model(node).tally.joined)
    go_on.set()
    await answered(side, 2)
    first, second = (details(side)[ident] for ident in (1, 2))
    times_us = {reply[3]: reply[4] for reply in side.of(Tell.RESULT)}
    assert first.compute_us > 45_000
    assert second.compute_us <= times_us[2]  # since it came; what ran before that is not its own
    assert second.queue_us == 0


async def test_full_and_late_batches_say_so(connect: Connect, start: Start) -> None:
    node = start(echo_node(batch_size=2, batch_wait_ms=30.0, batch_eager=False))
    side = await proven(connect, node)
    side.give(explain(1, 1, 1, 1, 1) + explain(2, 2, 2, 2, 2) + explain(3, 3, 3, 3, 3))
    await answered(side, 3)
    releases = {ident: each.batch.release for ident, each in details(side).items() if each.batch is not None}
    assert releases == {1: "full", 2: "full", 3: "timeout"}
    assert details(side)[3].queue_us >= 25_000


async def test_an_input_that_is_watched_runs_alone_and_first(connect: Connect, start: Start) -> None:
    side = await proven(connect, start(echo_node()))
    side.give(explain(1, 1, 2, 3, 4, kind=Ask.EXPLAIN_FIRST))
    await answered(side)
    batch = details(side)[1].batch
    assert batch is not None
    assert (batch.release, batch.rows) == ("first", 1)


async def test_hits_refusals_and_models_that_are_gone_have_nothing_to_say(connect: Connect, start: Start) -> None:
    side = await proven(connect, start(echo_node()))
    side.give(infer(1, 1, 2, 3, 4))
    await answered(side)
    side.give(explain(2, 1, 2, 3, 4) + explain(3, 1) + explain(4, 1, 2, 3, 4, model=9))
    await answered(side, 4)
    assert [reply[0] for reply in side.replies if reply[3] in (2, 3, 4)] == [Tell.RESULT, Tell.REFUSED, Tell.GONE]
    assert not side.of(Tell.TRACE)


async def test_one_that_failed_in_a_batch_says_in_which(connect: Connect, start: Start) -> None:
    engine = EchoEngine()
    engine.raises = RuntimeError("on purpose")
    side = await proven(connect, start(echo_node(engine)))
    side.give(explain(1, 1, 2, 3, 4))
    await answered(side)
    assert [reply[0] for reply in side.replies if reply[3] == 1] == [Tell.TRACE, Tell.FAILED]
    assert details(side)[1].batch is not None


async def test_a_large_ask_that_is_read_aside(connect: Connect, start: Start) -> None:
    engine = EchoEngine(None)
    side = await proven(connect, start(echo_node(engine)), bulk=True)
    values = [0.5] * 60_000
    for ident in (1, 2):
        side.give(explain(ident, *values))
        await answered(side, ident)
    (result, hit) = side.of(Tell.RESULT)
    found = details(side)
    assert (result[1], hit[1]) == (Cache.MISS, Cache.HIT)
    assert found[1].batch is not None
    assert found[1].queue_us + found[1].compute_us < result[4]  # what is left is the reading
    assert found[2] == Detail()


async def test_one_that_is_cancelled_leaves_nothing_behind(connect: Connect, start: Start) -> None:
    engine = EchoEngine()
    engine.hold()
    node = start(echo_node(engine))
    side = await proven(connect, node)
    side.give(infer(1, 1, 1, 1, 1))
    await side.until(lambda: engine.runs)
    engine.let_end(2)
    side.give(explain(2, 2, 2, 2, 2) + frames.ask(Ask.CANCEL, 2, b"") + explain(3, 3, 3, 3, 3))
    await side.until(lambda: len(side.of(Tell.RESULT)) == 2)
    assert [reply[3] for reply in side.of(Tell.RESULT)] == [1, 3]
    assert set(details(side)) == {3}
    assert the_model(node).tally.abandoned == 1


# --- Clients of its own ----------------------------------------------------------------------------------------------


class Client:
    def __init__(self, node: Node) -> None:
        self.direct = DirectInfer(node)
        self.heads: list[bytes] = []
        self.told = asyncio.Event()

    def answer(self, status: int, headers: bytes, body: bytes) -> None:
        self.heads.append(headers)
        self.told.set()

    async def ask(self, body: bytes, *, explained: bool = True) -> dict[str, Any]:
        """What the answer says of itself."""
        self.told.clear()
        self.direct.infer(body, self.answer, None, time.monotonic() if explained else None)
        await asyncio.wait_for(self.told.wait(), PATIENCE_S)
        lines = [each for each in self.heads[-1].splitlines() if each.startswith(b"x-explain: ")]
        return json.loads(lines[0].partition(b": ")[2]) if lines else {}


def body(*values: float) -> bytes:
    return json.dumps({"request_id": "r", "input_data": values}).encode()


async def test_a_worker_that_is_asked_itself_explains_what_it_did(start: Start) -> None:
    client = Client(start(echo_node(EchoEngine(takes_s=0.01), name="worker_7")))
    told = await client.ask(body(1, 2, 3, 4))
    assert (told["answered_by"], told["cache"], told["status"], told["model"]) == ("worker_7", "miss", 200, "echo")
    assert told["batch"]["rows"] == 1
    assert sum(told["parts_ms"].values()) == pytest.approx(told["total_ms"], rel=0.01)
    assert told["parts_ms"]["compute"] == 0.006
    hit = await client.ask(body(1, 2, 3, 4))
    assert (hit["cache"], hit["batch"], hit["key"]) == ("hit", None, told["key"])
    assert await client.ask(body(1, 2, 3, 4), explained=False) == {}


async def test_joined_ones_and_refusals_of_a_worker_itself(start: Start) -> None:
    client = Client(start(echo_node(EchoEngine(takes_s=0.05))))
    client.direct.infer(body(1, 2, 3, 4), lambda *answer: None)
    told = await client.ask(body(1, 2, 3, 4))
    assert (told["cache"], told["batch"]["requests"]) == ("joined", 2)
    refused = await client.ask(body(1))
    assert (refused["status"], refused["cache"], refused["batch"]) == (422, None, None)
    assert "1" in refused["why"]


async def test_what_no_model_has_got(start: Start) -> None:
    node = start(echo_node(name="worker_7"))
    line = DirectInfer(node).explain(400, "it is empty", time.monotonic() - 0.5)
    told = json.loads(line.partition(b": ")[2])
    assert (told["answered_by"], told["status"], told["why"]) == ("worker_7", 400, "it is empty")
    assert told["total_ms"] >= 500
    waiter = PlainAsker("r", lambda *answer: None)
    assert DirectInfer(node).find(None, None).ask(b"[1]", waiter, None, time.monotonic()) is None
