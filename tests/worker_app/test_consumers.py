"""The consumer that runs the batches: woken per batch, and it goes on after a failure."""

import asyncio

import pytest

from tests.support.waiting import PATIENCE_S, until
from tests.worker_app.conftest import Start
from tests.worker_app.echo_engine import EchoEngine, echo_model
from worker_app.model import Model


class Counting:
    """Counts the answers."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, *_: object) -> None:
        self.count += 1

    async def reach(self, count: int) -> None:
        await until(lambda: self.count >= count)


def ask(model: Model, number: int, reply: Counting) -> None:
    model.ask(b"[%d,0,0,0]" % number, number, reply)


def count_wakes(model: Model, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Each time that it runs batches, the session is noted."""
    wakes, run = [], model.run_batches

    async def counted(slot: int = 0) -> None:
        wakes.append(slot)
        await run()

    monkeypatch.setattr(model, "run_batches", counted)
    return wakes


async def test_it_is_woken_for_a_batch_not_for_a_request(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = EchoEngine()
    model = echo_model(engine, batch_size=32)
    wakes = count_wakes(model, monkeypatch)
    start(model)
    await asyncio.sleep(0)
    replies = Counting()
    for number in range(320):
        ask(model, number, replies)
    await replies.reach(320)
    assert list(map(len, engine.runs)) == [32] * 10
    assert 1 <= len(wakes) <= 2


async def test_it_sleeps_while_nothing_waits(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    model = echo_model()
    wakes = count_wakes(model, monkeypatch)
    start(model)
    await asyncio.sleep(0.1)
    assert wakes == []


async def test_it_goes_on_after_a_failure(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = echo_model()
    run, failures = model.run_batches, [RuntimeError("out of luck")]

    async def fails_once(slot: int = 0) -> None:
        if failures:
            raise failures.pop()
        await run()

    monkeypatch.setattr(model, "run_batches", fails_once)
    start(model)
    replies = Counting()
    ask(model, 1, replies)
    # What waited when it failed is not left until somebody else happens to come.
    await replies.reach(1)
    assert "a batch consumer failed; it starts again" in caplog.text
    ask(model, 2, replies)
    await replies.reach(2)


async def test_it_ends_when_cancelled() -> None:
    from worker_app.consumers import run_batches

    model = echo_model()
    task = asyncio.create_task(run_batches(model))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, PATIENCE_S)
    model.close()
