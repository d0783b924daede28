"""The model: every asker gets the answer to its own input, once, whatever happens around it."""

import asyncio
import hashlib
import json
import random
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inference_site.lib.errors import ApiError
from inference_site.lib.frames import Cache, Tell
from inference_site.lib.nodesettings import NodeSettings
from inference_site.lib.record import Record
from tests.support import onnx_models
from tests.support.waiting import PATIENCE_S, until
from tests.worker_app.asker import Asker
from tests.worker_app.conftest import Start
from tests.worker_app.echo_engine import ANY_WAIT_MS, EchoEngine, echo, echo_model
from worker_app.core.batcher import Release
from worker_app.engine import Engine, EngineError, Run
from worker_app.model import Model
from worker_app.samples import Sample
from worker_app.stats import model_stats


async def test_a_miss_then_a_hit(start: Start) -> None:
    engine = EchoEngine()
    asker = Asker(start(echo_model(engine)))
    assert await asker.answer([1, 2, 3, 4]) == (Tell.RESULT, Cache.MISS, 200, b"[1.0,2.0,3.0,4.0]")
    assert await asker.answer([1, 2, 3, 4]) == (Tell.RESULT, Cache.HIT, 200, b"[1.0,2.0,3.0,4.0]")
    assert engine.ran == 1
    stats = model_stats(asker.model)
    assert (stats["total_requests"], stats["cache_hits"], stats["cache_size"]) == (2, 1, 1)
    assert stats["cache_hit_rate"] == 0.5


async def test_who_does_not_fit_is_told_which_model_it_was_where_there_are_several(start: Start) -> None:
    model = start(echo_model(EchoEngine()))
    asker = Asker(model)
    *_, alone = await asker.answer([1, 2])
    model.configure(NodeSettings(), Record(), share=2)
    *_, of_two = await asker.answer([1, 2])
    assert json.loads(of_two)["error"] == f"echo: {json.loads(alone)['error']}"
    assert json.loads(of_two)["code"] == json.loads(alone)["code"] == "wrong_input_size"
    _, _, status, malformed = await asker.answer(b"[1,")
    assert (status, json.loads(malformed)["error"].startswith("echo")) == (400, False)


async def test_other_text_for_the_same_sample_is_a_hit_too(start: Start) -> None:
    engine = EchoEngine()
    asker = Asker(start(echo_model(engine)))
    for text in (b"[1,2,3,4]", b"[1.0, 2.0, 3.0, 4.0]", b"[1e0,20e-1,3,4]", b"[ 1 ,2,3,4 ]"):
        assert (await asker.answer(text))[3] == b"[1.0,2.0,3.0,4.0]"
    assert engine.ran == 1


@pytest.mark.parametrize("takes_s", [0.0, 0.02])
async def test_a_thousand_identical_requests_are_one_inference(start: Start, takes_s: float) -> None:
    engine = EchoEngine(takes_s=takes_s)
    asker = Asker(start(echo_model(engine)))
    for number in range(1000):
        asker.ask([5, 6, 7, 8])
        if number == 500:
            await asyncio.sleep(takes_s / 2)  # some come while it runs
    await asker.everything()
    assert engine.runs == [[np.array([5, 6, 7, 8], "f4").tobytes()]]
    caches = [cache for _, cache, *_ in asker.answers.values()]
    assert caches.count(Cache.MISS) == 1
    assert caches[0] is Cache.MISS
    assert {payload for *_, payload in asker.answers.values()} == {b"[5.0,6.0,7.0,8.0]"}


async def test_two_thousand_mixed_requests_get_their_own_answers(start: Start) -> None:
    rng = random.Random(1)
    pool = [[rng.randint(-9, 9) / 4 for _ in range(4)] for _ in range(300)]
    engine = EchoEngine()
    asker = Asker(start(echo_model(engine, cache_entries=50, batch_size=7)))
    expected: dict[object, tuple[Tell, bytes | None]] = {}
    for number in range(2000):
        if number % 97 == 0:
            expected[asker.ask(b"[1,2]")] = (Tell.REFUSED, None)
        else:
            values = rng.choice(pool)
            expected[asker.ask(values)] = (Tell.RESULT, echo(np.array(values, "f4").tobytes()))
        if rng.random() < 0.05:
            await asyncio.sleep(0)
    await asker.everything()
    for token, (kind, payload) in expected.items():
        assert asker.answers[token][0] is kind
        assert payload is None or asker.answers[token][3] == payload
    assert max(map(len, engine.runs)) <= 7
    assert asker.model.tally.requests == 2000


async def test_the_real_engine_answers_every_token_as_onnxruntime_does(start: Start, tmp_path: Path) -> None:
    engine = Engine(onnx_models.linear(tmp_path / "m.onnx"), Record(), name="linear", version="1")
    asker = Asker(start(Model(engine)))
    weights, bias = onnx_models.linear_weights()
    rows = np.random.default_rng(2).standard_normal((1000, 4)).astype("f4")
    for turn in range(2):
        for index, row in enumerate(rows):
            asker.ask([float(value) for value in row], (turn, index))
            if index % 50 == 0:
                await asyncio.sleep(0)
        await asker.everything()
    for (_, index), (kind, _, _, payload) in asker.answers.items():  # type: ignore[misc]
        assert kind is Tell.RESULT
        np.testing.assert_allclose(json.loads(payload), rows[index] @ weights + bias, atol=1e-5)


async def test_a_slow_engine_does_not_hold_up_the_loop(start: Start) -> None:
    running, go_on = threading.Event(), threading.Event()

    class Slow(EchoEngine):
        def run(self, samples: Sequence[Sample], session: int = 0) -> Run:
            running.set()
            assert go_on.wait(PATIENCE_S), "the loop was held up: it could not let the engine go on"
            return super().run(samples, session)

    asker = Asker(start(echo_model(Slow(takes_s=0.001))))
    asker.ask([1, 2, 3, 4])
    await until(running.is_set)
    assert not asker.answers
    go_on.set()
    await asker.everything()
    assert asker.answers[0][0] is Tell.RESULT


async def test_what_arrives_while_the_engine_runs_is_the_next_batch(start: Start) -> None:
    engine = EchoEngine()
    engine.hold()
    asker = Asker(start(echo_model(engine, batch_size=32)))
    asker.ask([0, 0, 0, 0])
    await until(lambda: engine.runs)
    for number in range(1, 41):
        asker.ask([number, 0, 0, 0])
    engine.release()
    await asker.everything()
    assert list(map(len, engine.runs)) == [1, 32, 8]
    order = [int(np.frombuffer(sample, "f4")[0]) for batch in engine.runs for sample in batch]
    assert order == list(range(41))
    assert asker.model.batcher.counts == {Release.FULL: 1, Release.TIMEOUT: 0, Release.FREE: 2}


async def test_a_full_queue_is_busy_and_forgets_what_it_refused() -> None:
    engine = EchoEngine()
    asker = Asker(echo_model(engine))
    asker.model.batcher.limit = 3
    for number in range(5):
        asker.ask([number, 0, 0, 0])
    assert {token: answer[:3] for token, answer in asker.answers.items()} == {
        3: (Tell.BUSY, Cache.MISS, 503),
        4: (Tell.BUSY, Cache.MISS, 503),
    }
    asker.ask([1, 0, 0, 0])  # the same work, already in the queue, needs no room
    assert len(asker.answers) == 2
    assert len(asker.model.batcher) == asker.model.in_flight == 3
    await asker.model.run_batches()
    await asker.everything()
    token = asker.ask([4, 0, 0, 0])
    await asker.model.run_batches()
    assert asker.answers[token] == (Tell.RESULT, Cache.MISS, 200, b"[4.0,0.0,0.0,0.0]")


async def test_what_the_input_cannot_take_is_refused_at_once_and_never_kept() -> None:
    asker = Asker(echo_model())
    for body, status in ((b"[1]", 422), (b"[1,2,3,true]", 400), (b"[1,2,3,3.5e38]", 422), (b"[1,2,3", 400)):
        for _ in range(2):
            kind, _, found, payload = asker.answers[asker.ask(body)]
            assert (kind, found) == (Tell.REFUSED, status)
            assert set(json.loads(payload)) == {"error", "code"}
    assert len(asker.model.results) == asker.model.in_flight == 0


async def test_a_sample_that_the_model_refuses_is_its_own_fault_alone(start: Start) -> None:
    engine = EchoEngine()
    bad = np.array([9, 9, 9, 9], "f4").tobytes()
    engine.refuses[bad] = ApiError(422, "model_refused_input", "no")
    asker = Asker(start(echo_model(engine)))
    tokens = [asker.ask([number, number, number, number]) for number in range(12)]
    await asker.everything()
    kinds = [asker.answers[token][0] for token in tokens]
    assert kinds == [Tell.REFUSED if number == 9 else Tell.RESULT for number in range(12)]
    assert asker.answers[tokens[9]][2] == 422
    assert asker.model.tally.errors == 0
    engine.refuses.clear()
    assert (await asker.answer([9, 9, 9, 9]))[:2] == (Tell.RESULT, Cache.MISS)  # a refusal is not cached


@pytest.mark.parametrize("takes_s", [0.0, 0.002])
async def test_a_failing_engine_is_told_to_each_asker_and_the_next_batch_runs(start: Start, takes_s: float) -> None:
    engine = EchoEngine(takes_s=takes_s)
    engine.raises = RuntimeError("segment lost")
    asker = Asker(start(echo_model(engine)))
    for number in range(10):
        asker.ask([number % 5, 0, 0, 0])
    await asker.everything()
    for kind, _, status, payload in asker.answers.values():
        assert (kind, status) == (Tell.FAILED, 503)
        assert b"segment lost" in payload
    engine.raises = None
    assert (await asker.answer([1, 0, 0, 0]))[:2] == (Tell.RESULT, Cache.MISS)  # a failure is not cached
    engine.refuses[np.array([7, 0, 0, 0], "f4").tobytes()] = EngineError("sick")
    errors = asker.model.tally.errors
    assert (await asker.answer([7, 0, 0, 0]))[0] is Tell.FAILED
    assert asker.model.tally.errors == errors + 1


async def test_an_asker_whose_callback_fails_harms_nobody_else(start: Start) -> None:
    asker = Asker(echo_model())

    def broken(*_: Any) -> None:
        raise RuntimeError("the client's connection is gone")

    asker.model.ask(b"[0,0,0,0]", None, broken)
    for number in range(3):
        asker.ask([number, 0, 0, 0])
    start(asker.model)
    await asker.everything()
    assert (await asker.answer([0, 0, 0, 0]))[0] is Tell.RESULT


async def test_without_a_cache_every_request_runs(start: Start) -> None:
    engine = EchoEngine()
    asker = Asker(start(echo_model(engine, cache_entries=0)))
    for _ in range(3):
        assert (await asker.answer([1, 2, 3, 4]))[:2] == (Tell.RESULT, Cache.MISS)
    assert engine.ran == 3
    assert model_stats(asker.model)["cache_size"] == asker.model.results.size_bytes == 0


async def test_the_cache_keeps_to_its_entries_and_its_bytes(start: Start) -> None:
    engine = EchoEngine()
    model = start(echo_model(engine, cache_entries=10))
    asker = Asker(model)
    for number in range(50):
        await asker.answer([number, 0, 0, 0])
        assert len(model.results) <= 10
    model.configure(NodeSettings(revision=1, cache_entries=1000, cache_bytes=500), model.record)
    assert model.results.size_bytes <= 500
    for number in range(50, 100):
        await asker.answer([number, 0, 0, 0])
        assert model.results.size_bytes <= 500
    assert 0 < len(model.results) < 20
    ran = engine.ran
    assert (await asker.answer([99, 0, 0, 0]))[1] is Cache.HIT
    assert (await asker.answer([50, 0, 0, 0]))[1] is Cache.MISS
    assert engine.ran == ran + 1


async def test_lazy_batches_wait_until_their_time(start: Start) -> None:
    engine = EchoEngine()
    asker = Asker(start(echo_model(engine, batch_eager=False, batch_wait_ms=200.0, batch_size=32)))
    began = asyncio.get_running_loop().time()
    for number in range(5):
        asker.ask([number, 0, 0, 0])
    await asker.everything()
    assert asyncio.get_running_loop().time() - began >= 0.199
    assert list(map(len, engine.runs)) == [5]
    assert asker.model.batcher.counts == {Release.FULL: 0, Release.TIMEOUT: 1, Release.FREE: 0}


async def test_lazy_batches_go_when_full_without_waiting(start: Start) -> None:
    engine = EchoEngine()
    asker = Asker(start(echo_model(engine, batch_eager=False, batch_wait_ms=60_000.0, batch_size=4)))
    for number in range(8):
        asker.ask([number, 0, 0, 0])
    await asker.everything()
    for number in range(8, 14):
        asker.ask([number, 0, 0, 0])
        await asyncio.sleep(0.001)
    less = NodeSettings(batch_eager=False, batch_wait_ms=1.0, batch_size=4)
    asker.model.configure(less, asker.model.record)
    await asker.everything()
    assert list(map(len, engine.runs)) == [4, 4, 4, 2]
    assert asker.model.batcher.counts == {Release.FULL: 3, Release.TIMEOUT: 1, Release.FREE: 0}
    assert model_stats(asker.model)["batch_processor"] == {
        "total_batches": 4,
        "avg_batch_size": 3.5,
        "timeout_batches": 1,
        "full_batches": 3,
        "free_batches": 0,
    }


@pytest.mark.parametrize(
    "settings",
    [
        NodeSettings(revision=1, batch_eager=True),
        NodeSettings(revision=1, batch_eager=False, batch_wait_ms=1.0),
        NodeSettings(revision=1, batch_eager=False, batch_wait_ms=60_000.0, batch_size=3),
    ],
)
async def test_new_settings_release_what_waits(start: Start, settings: NodeSettings) -> None:
    asker = Asker(start(echo_model(batch_eager=False, batch_wait_ms=60_000.0)))
    for number in range(3):
        asker.ask([number, 0, 0, 0])
    await asyncio.sleep(0.03)
    assert not asker.answers
    asker.model.configure(settings, asker.model.record)
    await asker.everything()


async def test_settings_change_under_load_without_a_wrong_or_missing_answer(start: Start) -> None:
    rng = random.Random(5)
    asker = Asker(start(echo_model()))
    expected = {}
    for number in range(1500):
        values = [rng.randint(0, 60), 0, 0, 0]
        expected[asker.ask(values)] = echo(np.array(values, "f4").tobytes())
        if number % 15 == 0:
            changed = NodeSettings(
                revision=number,
                cache_entries=rng.choice([0, 5, 1000]),
                cache_bytes=rng.choice([0, 300, 10**6]),
                batch_size=rng.choice([1, 3, 32]),
                batch_wait_ms=rng.choice([0.0, 2.0]),
                batch_eager=rng.random() < 0.5,
                queue_ms=ANY_WAIT_MS,
            )
            asker.model.configure(changed, asker.model.record)
            await asyncio.sleep(0.0005)
    await asker.everything()
    assert {token: answer[3] for token, answer in asker.answers.items()} == expected


async def test_near_twins_never_share_an_answer(start: Start) -> None:
    asker = Asker(start(echo_model(EchoEngine(values=None))))
    twins: list[list[float]] = [
        [1, 2],
        [1, 2, 0],
        [0, 1, 2],
        [12],
        [1.0, 2.0000002],
        [1, -2],
        [0.0],
        [-0.0],
        [0, 0],
        [1] * 600,
        [1] * 601,
        [*[1.0] * 599, 2.0],
    ]
    for _ in range(2):
        for twin in twins:
            assert (await asker.answer(twin))[3] == echo(np.array(twin, "f4").tobytes()), twin


async def test_a_sample_made_to_look_like_the_digest_of_another_gets_its_own_answer(start: Start) -> None:
    # A long sample is kept under its digest; anybody can compute that and send it as eight floats.
    for seed in range(100):
        long = np.random.default_rng(seed).standard_normal(1000).astype("f4")
        forged = np.frombuffer(hashlib.sha256(long.tobytes()).digest(), "f4")
        if np.isfinite(forged).all():
            break
    for first, second in ((long, forged), (forged, long)):
        asker = Asker(start(echo_model(EchoEngine(values=None))))
        for values in (first, second):
            answer = await asker.answer([float(value) for value in values])
            assert answer[1] is Cache.MISS
            assert answer[3] == echo(values.tobytes())
