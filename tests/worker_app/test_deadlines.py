"""Work that nobody wants any more: what has expired or was abandoned is not run, and everybody else gets an answer."""

import asyncio
import random
import time
from types import SimpleNamespace

import numpy as np
import pytest

from inference_site.lib.frames import Cache, Tell
from tests.support.waiting import until
from tests.worker_app.asker import Asker
from tests.worker_app.conftest import Start
from tests.worker_app.echo_engine import EchoEngine, echo, echo_model
from worker_app.job import Waiting
from worker_app.stats import model_stats


async def test_what_is_answered_at_once_leaves_nothing_to_cancel(start: Start) -> None:
    asker = Asker(start(echo_model()))
    assert asker.job(b"[1]", "bad") is None
    assert asker.job([1, 2, 3, 4], "miss") is not None
    await asker.everything()
    assert asker.job([1, 2, 3, 4], "hit") is None


async def test_an_expired_request_is_not_run(start: Start) -> None:
    engine = EchoEngine()
    model = echo_model(engine)
    asker = Asker(model)
    asker.ask([1, 0, 0, 0], "late", left_ms=1)
    asker.ask([2, 0, 0, 0], "patient", left_ms=60_000)
    asker.ask([3, 0, 0, 0], "endless")
    await asyncio.sleep(0.005)
    start(model)
    await asker.everything()
    assert asker.answers["late"] == (Tell.EXPIRED, Cache.MISS, 504, b"")
    assert asker.answers["patient"][0] is asker.answers["endless"][0] is Tell.RESULT
    assert engine.ran == 2
    assert (model_stats(model)["expired"], model_stats(model)["abandoned"]) == (1, 0)
    # It was not kept either, and may be asked again.
    assert (await asker.answer([1, 0, 0, 0]))[:2] == (Tell.RESULT, Cache.MISS)


async def test_one_of_two_who_wait_for_the_same_expires(start: Start) -> None:
    engine = EchoEngine()
    model = echo_model(engine)
    asker = Asker(model)
    asker.ask([1, 0, 0, 0], "late", left_ms=1)
    asker.ask([1, 0, 0, 0], "patient")
    await asyncio.sleep(0.005)
    start(model)
    await asker.everything()
    assert asker.answers["late"][0] is Tell.EXPIRED
    # It is the first who gets the result, so for it the model ran.
    assert asker.answers["patient"] == (Tell.RESULT, Cache.MISS, 200, b"[1.0,0.0,0.0,0.0]")
    assert engine.ran == 1


async def test_who_expires_while_it_runs_gets_the_result(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = EchoEngine()
    engine.hold()
    asker = Asker(start(echo_model(engine)))
    asker.ask([1, 0, 0, 0], "late", left_ms=60_000)
    await until(lambda: engine.runs)
    later = SimpleNamespace(monotonic=lambda: time.monotonic() + 120)
    monkeypatch.setattr("worker_app.answers.time", later)
    engine.release()
    await asker.everything()
    assert asker.answers["late"][0] is Tell.RESULT


async def test_abandoned_work_is_not_run_and_frees_its_place() -> None:
    engine = EchoEngine()
    model = echo_model(engine)
    model.batcher.limit = 3
    asker = Asker(model)
    jobs = [asker.job([number, 0, 0, 0], number) for number in range(3)]
    asker.leave(jobs[1], 1)
    assert len(model.batcher) == model.in_flight == 2
    asker.ask([7, 0, 0, 0], 7)
    await model.run_batches()
    assert set(asker.answers) == {0, 2, 7}
    assert engine.ran == 3
    assert (model_stats(model)["expired"], model_stats(model)["abandoned"]) == (0, 1)
    model.close()


async def test_what_was_abandoned_and_is_asked_again_runs() -> None:
    engine = EchoEngine()
    model = echo_model(engine)
    asker = Asker(model)
    asker.leave(asker.job([1, 0, 0, 0], "leaver"), "leaver")
    asker.ask([1, 0, 0, 0], "stayer")
    await model.run_batches()
    assert asker.answers == {"stayer": (Tell.RESULT, Cache.MISS, 200, b"[1.0,0.0,0.0,0.0]")}
    assert engine.ran == 1
    model.close()


async def test_the_first_of_a_thousand_leaves_and_all_others_are_answered(start: Start) -> None:
    engine = EchoEngine()
    model = echo_model(engine)
    asker = Asker(model)
    first = asker.job([1, 0, 0, 0], 0)
    for number in range(1, 1000):
        asker.ask([1, 0, 0, 0], number)
    asker.leave(first, 0)
    start(model)
    await asker.everything()
    assert 0 not in asker.answers
    assert [answer[1] for answer in asker.answers.values()].count(Cache.MISS) == 1
    assert engine.ran == 1


async def test_two_askers_with_the_same_token_are_told_apart() -> None:
    model = echo_model()
    leaver, stayer = Asker(model), Asker(model)
    job = leaver.job([1, 0, 0, 0], 1)
    stayer.ask([1, 0, 0, 0], 1)
    leaver.leave(job, 1)
    await model.run_batches()
    assert not leaver.answers
    assert stayer.answers[1][0] is Tell.RESULT
    model.close()


async def test_who_leaves_while_it_runs_gets_nothing_but_the_result_is_kept(start: Start) -> None:
    engine = EchoEngine()
    engine.hold()
    model = start(echo_model(engine))
    asker = Asker(model)
    job = asker.job([1, 0, 0, 0], "leaver")
    await until(lambda: engine.runs)
    asker.leave(job, "leaver")
    engine.release()
    await until(lambda: not model.in_flight)
    assert not asker.answers
    assert (await asker.answer([1, 0, 0, 0]))[1] is Cache.HIT
    assert model.tally.abandoned == 0


@pytest.mark.parametrize("seed", range(3))
async def test_whoever_stays_gets_the_own_answer_whoever_leaves_or_expires(start: Start, seed: int) -> None:
    rng = random.Random(seed)
    engine = EchoEngine(takes_s=0.001)
    model = start(echo_model(engine, cache_entries=20, batch_size=5))
    asker = Asker(model)
    under_way: list[tuple[int, Waiting]] = []
    expected: dict[object, bytes] = {}
    hasty = set()
    for number in range(600):
        values = [rng.randint(0, 100), 0, 0, 0]
        expected[number] = echo(np.array(values, "f4").tobytes())
        left_ms = rng.choice([0, 0, 60_000, 5])
        if left_ms == 5:
            hasty.add(number)
        job = asker.job(values, number, left_ms=left_ms)
        if job is not None:
            under_way.append((number, job))
        if rng.random() < 0.3 and under_way:
            token, job = under_way.pop(rng.randrange(len(under_way)))
            asker.leave(job, token)
        if rng.random() < 0.1:
            await asyncio.sleep(0.001)
    await asker.everything()
    assert set(asker.answers) == set(expected) - asker.left
    for who, (kind, _, _, payload) in asker.answers.items():
        if kind is Tell.RESULT:
            assert payload == expected[who]
        else:
            assert kind in (Tell.EXPIRED, Tell.BUSY)
            assert who in hasty
    assert model.in_flight == len(model.batcher) == 0
    assert model.tally.abandoned > 0
