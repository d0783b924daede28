"""A worker takes in what it can do in time, and says at once when it can't."""

import asyncio
import json
from pathlib import Path

import pytest

from inference_site.lib.frames import Tell
from inference_site.lib.nodesettings import NodeSettings
from inference_site.lib.record import Record
from tests.support import onnx_models
from tests.worker_app.asker import Asker
from tests.worker_app.conftest import Start
from tests.worker_app.echo_engine import EchoEngine, echo_model, echo_node
from worker_app.core.admission import MAX_QUEUE
from worker_app.direct import DirectInfer
from worker_app.engine import Engine
from worker_app.model import Model
from worker_app.node import Node
from worker_app.stats import model_stats, node_stats


def paced_model(queue_ms: float = 1000.0) -> Model:
    """100 samples a second in batches of 10, by the warm-up's measure."""
    return echo_model(EchoEngine(takes_s=0.1), batch_size=10, queue_ms=queue_ms)


def paced_node(queue_ms: float = 1000.0) -> Node:
    return echo_node(EchoEngine(takes_s=0.1), batch_size=10, queue_ms=queue_ms)


class FakeStream:
    uses: frozenset[int] | None = None

    def __init__(self, *, bulk: bool = False) -> None:
        self.bulk = bulk

    def say_models(self) -> None:
        raise AssertionError("not in this test")

    def say_draining(self) -> None:
        raise AssertionError("not in this test")


async def test_the_queue_is_as_long_as_its_time_and_then_refuses_with_the_time() -> None:
    model = paced_model(queue_ms=300.0)
    asker = Asker(model)
    for number in range(32):
        asker.ask([number, 0, 0, 0])
    assert {token: answer[0] for token, answer in asker.answers.items()} == {30: Tell.BUSY, 31: Tell.BUSY}
    assert asker.times_us[30] == pytest.approx(300_000)
    stats = model_stats(model)
    assert (stats["queue"], stats["queue_ms"], stats["rate"], stats["limit"]) == (30, 300.0, 100.0, 40)
    model.close()


async def test_two_batches_always_have_room() -> None:
    model = paced_model(queue_ms=1.0)
    asker = Asker(model)
    for number in range(21):
        asker.ask([number, 0, 0, 0])
    assert {token: answer[0] for token, answer in asker.answers.items()} == {20: Tell.BUSY}
    model.close()


async def test_a_full_worker_does_not_read_what_it_refuses_anyway(monkeypatch: pytest.MonkeyPatch) -> None:
    model = paced_model(queue_ms=1.0)
    asker = Asker(model)
    for number in range(20):
        asker.ask([number, 0, 0, 0])
    monkeypatch.delattr(model.engine, "read")
    assert asker.answers[asker.ask([20, 0, 0, 0])][0] is Tell.BUSY
    asker.ask([3, 0, 0, 0])  # joins
    assert model.tally.joined == 1
    model.close()


async def test_who_has_less_time_than_the_queue_is_refused_at_once() -> None:
    model = paced_model()
    asker = Asker(model)
    asker.ask([0, 0, 0, 0], "first", left_ms=1)  # nothing waits, so it may be in time
    for number in range(1, 20):
        asker.ask([number, 0, 0, 0])
    asker.ask([20, 0, 0, 0], "hasty", left_ms=320)  # two batches are before it, and its own takes a tenth of a second
    asker.ask([21, 0, 0, 0], "patient", left_ms=340)
    assert asker.answers["hasty"][0] is Tell.BUSY
    assert asker.times_us["hasty"] == pytest.approx(200_000)
    assert set(asker.answers) == {"hasty"}
    model.close()


async def test_with_less_than_a_batch_before_it_a_request_is_given_its_chance() -> None:
    model = paced_model()
    asker = Asker(model)
    for number in range(5):
        asker.ask([number, 0, 0, 0])
    asker.ask([5, 0, 0, 0], left_ms=60)
    assert not asker.answers
    model.close()


async def test_the_rate_is_what_was_measured_and_the_limit_follows(start: Start) -> None:
    engine = EchoEngine(takes_s=0.02)
    engine.fixed_s = 0.0001  # what the warm-up seemed to promise
    model = start(echo_model(engine, batch_size=5, queue_ms=500.0))
    assert model.batcher.limit == MAX_QUEUE
    asker = Asker(model)
    for number in range(100):
        asker.ask([number, 0, 0, 0])
    await asker.everything()
    assert model.rate < 1.5 * 5 / 0.02  # a busy machine may have been slower still
    assert model.batcher.limit == max(10, int(model.rate * 0.5))
    assert model_stats(model)["queue_ms"] == 0


def test_the_limit_is_shared_out_among_the_gateways() -> None:
    node = paced_node()
    limits = []
    for _ in range(6):
        stats = node_stats(node)
        limits.append(stats["limit"])
        assert stats["models"][0]["limit"] == stats["limit"]
        node.gateways |= {FakeStream(), FakeStream(bulk=True)}
    assert limits == [110, 110, 55, 36, 27, 22]
    node.close()


def test_new_settings_change_the_limit_at_once() -> None:
    model = paced_model()
    assert model.batcher.limit == 100
    model.configure(NodeSettings(revision=1, batch_size=10, queue_ms=5000.0), model.record)
    assert model.batcher.limit == 500
    model.configure(NodeSettings(revision=2, batch_size=20, queue_ms=500.0), model.record)
    assert model.batcher.limit == 100
    model.close()


async def test_a_client_of_the_worker_itself_is_told_when_to_come_again() -> None:
    node = paced_node(queue_ms=2500.0)
    plane = DirectInfer(node)
    answers: list[tuple[int, bytes, bytes]] = []

    def ask(number: int) -> None:
        body = b'{"request_id": "r", "input_data": [%d, 0, 0, 0]}' % number
        plane.infer(body, lambda *answer: answers.append(answer))

    for number in range(251):
        ask(number)
    [(status, head, body)] = answers
    assert status == 503
    assert b"retry-after: 3\r\n" in head
    assert json.loads(body)["code"] == "overloaded"
    assert "2.5 s" in json.loads(body)["error"]
    node.close()


def test_the_warm_up_measures_what_a_batch_costs(tmp_path: Path) -> None:
    for model in (onnx_models.slow, onnx_models.fixed_batch):
        engine = Engine(model(tmp_path / f"{model.__name__}.onnx"), Record(), name="m", version="1")
        assert engine.fixed_s >= 0
        assert engine.each_s >= 0
        assert engine.fixed_s + engine.each_s > 0


async def test_ten_times_too_much_is_answered_or_refused(start: Start) -> None:
    model = start(echo_model(EchoEngine(takes_s=0.01), batch_size=4, queue_ms=100.0))
    asker = Asker(model)
    for number in range(400):  # in bursts of more than twice what may wait
        asker.ask([number, 0, 0, 0])
        if number % 100 == 99:
            await asyncio.sleep(0.02)
    await asker.everything()
    kinds = [answer[0] for answer in asker.answers.values()]
    assert set(kinds) == {Tell.RESULT, Tell.BUSY}
    assert kinds.count(Tell.RESULT) >= 40
