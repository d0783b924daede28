"""What runs together: samples of one group, so many rows, in as many sessions as there are; and what is counted."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from inference_site.lib import asks
from inference_site.lib.frames import Cache, Tell
from inference_site.lib.nodesettings import NodeSettings
from inference_site.lib.record import Record
from tests.support.waiting import PATIENCE_S, until
from tests.worker_app.asker import Asker
from tests.worker_app.conftest import Start
from tests.worker_app.echo_engine import EchoEngine, echo_model, echo_node
from worker_app import batches as batches_module
from worker_app import lastrun as lastrun_module
from worker_app.engine import Run
from worker_app.handoff import chunks, keep
from worker_app.lastrun import LastRun
from worker_app.samples import Sample
from worker_app.stats import model_stats

WATCHED = 77


def v2(rows: Sequence[Sequence[float]], *, binary: bool = False) -> bytes:
    """An ask of the Open Inference Protocol."""
    tensor = np.array(rows, "<f4")
    about: dict[str, Any] = {"name": "input", "datatype": "FP32", "shape": tensor.shape}
    if binary:
        about["parameters"] = {"binary_data_size": tensor.nbytes}
        return asks.pack_v2(b"[%b]" % orjson.dumps(about), None, True, tensor.tobytes())
    about["data"] = tensor.reshape(-1).tolist()
    return asks.pack_v2(b"[%b]" % orjson.dumps(about), None, False, b"")


def values_of(result: bytes) -> list[float]:
    outputs, _ = asks.unpack_v2_result(result)
    data: list[float] = orjson.loads(outputs)[0]["data"]
    return data


async def test_only_equal_shapes_run_together(start: Start) -> None:
    engine = EchoEngine(values=None)
    model = echo_model(engine, batch_size=8)
    asker, rng = Asker(model), random.Random(4)
    rows = [[float(number)] * rng.randint(1, 5) for number in range(200)]
    for row in rows:
        asker.ask(row)
    start(model)
    await asker.everything()
    for run in engine.runs:
        assert len({len(data) for data in run}) == 1
        assert len(run) <= 8
    assert len(engine.runs) < 40
    assert [orjson.loads(asker.answers[token][3]) for token in range(200)] == rows


async def test_a_batch_has_no_more_rows_than_it_may(start: Start) -> None:
    engine = EchoEngine(values=1)
    model = echo_model(engine, batch_size=8)
    asker, rng = Asker(model), random.Random(5)
    asked = [[[float(number)]] * rng.choice([1, 1, 2, 5, 8, 20]) for number in range(150)]
    for rows in asked:
        asker.ask(v2(rows))
    start(model)
    await asker.everything()
    for run in engine.runs:
        assert len(run) == 1 or sum(len(data) // 4 for data in run) <= 8
    for token, rows in enumerate(asked):
        assert values_of(asker.answers[token][3]) == [value for row in rows for value in row]
    stats = model_stats(model)
    total = sum(map(len, asked))
    assert model.tally.statistics.inferences == total
    assert model.tally.statistics.executions == stats["batch_processor"]["total_batches"] == len(engine.runs)
    assert sum(size * count for size, (count, _) in model.tally.statistics.batches.items()) == total
    assert stats["batch_processor"]["avg_batch_size"] == round(total / len(engine.runs), 2)


async def test_rows_count_for_the_queue(start: Start) -> None:
    model = echo_model(EchoEngine(values=1))
    model.batcher.limit = 10
    asker = Asker(model)
    for number in range(3):
        asker.ask(v2([[float(number)]] * 6))
    assert {token: answer[0] for token, answer in asker.answers.items()} == {2: Tell.BUSY}
    start(model)
    await asker.everything()


async def test_only_equal_asks_share_an_answer(start: Start) -> None:
    engine = EchoEngine(values=None)
    model = echo_model(engine)
    asker = Asker(model)
    twins = [b"[1.0,2.0]", v2([[1, 2]]), v2([[1], [2]]), v2([[1, 2]], binary=True), b'{"input": [1.0]}', b"[1,2,0]"]
    tokens = [asker.ask(twin) for twin in twins * 2]
    assert model.tally.joined == len(twins)
    start(model)
    await asker.everything()
    assert engine.ran == len(twins)
    answers = [asker.answers[token][3] for token in tokens]
    assert answers[: len(twins)] == answers[len(twins) :]
    assert len(set(answers)) == len(twins)
    for twin, answer in zip(twins, answers, strict=False):
        assert await asker.answer(twin) == (Tell.RESULT, Cache.HIT, 200, answer)


async def test_large_tensors_are_cached_joined_and_served_when_the_queue_is_full(start: Start) -> None:
    engine = EchoEngine(values=2000)
    model = echo_model(engine)
    asker = Asker(model)
    row = [float(number) for number in range(2000)]
    large = v2([row], binary=True)
    asker.ask(large)
    asker.ask(v2([row[::-1]], binary=True))
    asker.ask(large)
    assert model.tally.joined == 1
    model.batcher.limit = 2
    start(model)
    await asker.everything()
    model.batcher.limit = 0
    assert (await asker.answer(large))[:2] == (Tell.RESULT, Cache.HIT)
    assert (await asker.answer(v2([[*row[1:], 0.5]], binary=True)))[0] is Tell.BUSY
    taker = echo_model(EchoEngine(values=2000))
    for chunk in chunks(model):
        keep([taker], chunk)
    assert taker.tally.kept == 2
    assert (await Asker(taker).answer(large)) == (Tell.RESULT, Cache.HIT, 200, asker.answers[0][3])
    taker.close()


async def test_another_way_to_write_the_same_joins(start: Start) -> None:
    model = echo_model(EchoEngine(values=None))
    asker = Asker(model)
    for text in (b"[1,2]", b"[1.0, 2.0]", b'{"input": [1, 2]}'):
        asker.ask(text)
    start(model)
    await asker.everything()
    assert model.tally.joined == 2


async def test_what_is_not_to_be_cached_is_computed_for_each_who_asks(start: Start) -> None:
    engine = EchoEngine(takes_s=0.001)
    model = start(echo_model(engine, Record(cached=False)))
    asker = Asker(model)
    for _ in range(50):
        asker.ask([1, 2, 3, 4])
    await asker.everything()
    assert engine.ran == 50
    assert {answer[1] for answer in asker.answers.values()} == {Cache.MISS}
    found = model.tally.statistics
    assert (found.cache_hits, found.cache_misses, found.computed, found.success) == (0, 0, 50, 50)
    assert len(model.results) == len(model.aliases) == 0


async def test_an_uncached_job_can_be_left(start: Start) -> None:
    model = echo_model(EchoEngine(), Record(cached=False))
    asker = Asker(model)
    leavers = [asker.job([1, 2, 3, 4], number) for number in range(3)]
    asker.leave(leavers[1], 1)
    start(model)
    await asker.everything()
    assert set(asker.answers) == {0, 2}


async def test_several_sessions_run_at_the_same_time(start: Start) -> None:
    together = threading.Barrier(2, timeout=PATIENCE_S)

    class Meets(EchoEngine):
        def run(self, samples: Sequence[Sample], session: int = 0) -> Run:
            together.wait()  # two batches are here at the same time, or the test fails
            return super().run(samples, session)

    engine = Meets(takes_s=0.001, sessions=2)
    model = start(echo_model(engine, batch_size=1))
    asker = Asker(model)
    for number in range(20):
        asker.ask([number, 0, 0, 0])
    await asker.everything()
    assert {answer[0] for answer in asker.answers.values()} == {Tell.RESULT}
    assert sorted(engine.slots) == [0] * 10 + [1] * 10
    assert model.rate == pytest.approx(2 * model.pace.rate(1))


async def test_a_model_that_does_not_batch_leaves_work_to_its_other_sessions(start: Start) -> None:
    engine = EchoEngine(takes_s=0.001, sessions=2)
    engine.batches = False
    model = start(echo_model(engine))
    asker = Asker(model)
    for number in range(20):
        asker.ask([number, 0, 0, 0])
    await asker.everything()
    assert set(map(len, engine.runs)) == {1}
    assert model.info.max_batch_size == 0


async def test_a_model_that_turns_out_not_to_batch_is_told(start: Start) -> None:
    engine = EchoEngine()
    model = start(echo_model(engine))
    told: list[bool] = []
    model.when_changed = lambda: told.append(model.info.batches)
    await Asker(model).answer([1, 2, 3, 4])
    assert told == []
    engine.batches = False
    await Asker(model).answer([2, 2, 3, 4])
    assert told == [False]


class Counts(EchoEngine):
    """Notes how many batches of all engines run at the same time when a watched input does."""

    lock = threading.Lock()
    running = 0
    beside_watched = 0

    def run(self, samples: Sequence[Sample], session: int = 0) -> Run:
        self.note(samples, 1)
        result = super().run(samples, session)
        self.note(samples, -1)
        return result

    def note(self, samples: Sequence[Sample], change: int) -> None:
        """A run begins, or has ended."""
        with Counts.lock:
            before = Counts.running
            Counts.running += change
            if any(sample.arrays[0][0, 1] == WATCHED for sample in samples):
                Counts.beside_watched = max(Counts.beside_watched, before, Counts.running)


async def test_watched_inputs_run_alone_in_the_whole_process(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lastrun_module, "PATIENCE_S", PATIENCE_S)  # no batch here hangs, however long it takes
    node = echo_node(*(Counts(takes_s=0.003, name=name, sessions=2) for name in "abcd"), batch_size=2)
    node.watch(LastRun(tmp_path / "running"))
    start(node)
    askers = [Asker(model) for model in node.models.values()]
    for number in range(6):
        for asker in askers:
            for other in range(5):
                asker.ask([100 * number + other, 0, 0, 0])
            asker.asked += 1
            watched = b"[%d,%d,0,0]" % (number, WATCHED)
            asker.model.ask(watched, f"watched {number}", asker.reply, 0, 1000 + number)
        await asyncio.sleep(0.005)
    for asker in askers:
        await asker.everything()
        assert {answer[0] for answer in asker.answers.values()} == {Tell.RESULT}
    assert Counts.beside_watched == 1
    assert LastRun(tmp_path / "running").found is None


async def test_a_batch_that_hangs_does_not_stop_the_watched_nor_the_other_way_round(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lastrun_module, "PATIENCE_S", 0.05)
    release = threading.Event()

    class Hangs(EchoEngine):
        def run(self, samples: Sequence[Sample], session: int = 0) -> Run:
            release.wait(PATIENCE_S)
            return super().run(samples, session)

    node = start(echo_node(Hangs(name="a", takes_s=0.001), EchoEngine(name="b")))
    slow, quick = (Asker(model) for model in node.models.values())
    for key in (None, 7):  # first it hangs beside, then alone
        slow.asked += 1
        slow.model.ask(b"[%d,0,0,0]" % (key or 1), key, slow.reply, 0, key)
        await until(lambda: slow.model._running)
        quick.asked += 1
        quick.model.ask(b"[%d,1,0,0]" % (key or 1), key, quick.reply, 0, None if key else 8)
        await quick.everything()
        assert not slow.answers if key is None else set(slow.answers) == {None}
        release.set()
        await slow.everything()
        release.clear()


async def test_after_a_while_without_work_memory_is_given_back_once(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches_module, "IDLE_S", 0.05)
    engine = EchoEngine()
    model = start(echo_model(engine))
    asker = Asker(model)
    await asyncio.sleep(0.1)
    assert engine.shrunk == 0  # it has not worked yet
    await asker.answer([1, 2, 3, 4])
    await until(lambda: engine.shrunk)
    await asyncio.sleep(0.15)
    assert engine.shrunk == 1
    await asker.answer([2, 2, 3, 4])
    await until(lambda: engine.shrunk == 2)


async def test_memory_that_cannot_be_given_back_is_said_once(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(batches_module, "IDLE_S", 0.05)

    class Fails(EchoEngine):
        def shrink(self) -> None:
            super().shrink()
            raise RuntimeError("CUDA error 700")

    engine = Fails()
    asker = Asker(start(echo_model(engine)))
    await asker.answer([1, 2, 3, 4])
    await until(lambda: engine.shrunk)
    await asker.answer([2, 2, 3, 4])
    await until(lambda: engine.shrunk == 2)
    asker.model._threads[0].submit(int).result(PATIENCE_S)  # what was said has been said
    said = [message for message in caplog.messages if "memory" in message]
    assert said == ["echo.onnx could not give its memory back: CUDA error 700"]


async def test_the_statistics_are_those_of_the_protocol(start: Start) -> None:
    model = start(echo_model(EchoEngine(values=1)))
    asker = Asker(model)
    for number in range(3):
        await asker.answer(v2([[number]] * 2))
    for _ in range(4):
        await asker.answer(v2([[1]] * 2))
    asker.ask(v2([[1, 2]]))
    asker.ask(b"[7]")
    asker.ask(b"[7]")  # joins
    await asker.everything()
    found = model.tally.statistics
    assert (found.success, found.fail, found.computed) == (9, 1, 4)
    assert (found.cache_hits, found.cache_misses) == (4, 5)
    assert (found.inferences, found.executions) == (7, 4)
    assert (found.compute_input_ns, found.compute_infer_ns, found.compute_output_ns) == (4000, 8000, 12_000)
    assert found.batches == {2: (3, 6000), 1: (1, 2000)}
    assert found.success_ns > found.cache_hit_ns > 0
    assert found.queue_ns > 0
    assert found.cache_miss_ns > 0
    assert found.fail_ns > 0
    assert found.last_inference_ms > 1_600_000_000_000


async def test_sizes_of_huge_batches_are_counted_roughly(start: Start) -> None:
    model = start(echo_model(EchoEngine(values=1)))
    asker = Asker(model)
    for rows in range(1500, 1600):
        await asker.answer(v2([[1.0]] * rows, binary=True))
    assert set(model.tally.statistics.batches) == {2048}


def test_a_record_comes_before_the_settings() -> None:
    model = echo_model(EchoEngine(), Record(batch_size=4, cache_entries=5), batch_size=16, cache_entries=100)
    assert (model.batcher.max_size, model.results.max_entries) == (4, 5)
    model.configure(NodeSettings(batch_size=2, batch_eager=False, batch_wait_ms=3), Record())
    assert (model.batcher.max_size, model.results.max_entries, model.info.max_wait_us) == (2, 1000, 3000)
    model.close()


async def test_an_unusually_long_input_of_a_quick_model_does_not_hold_up_the_loop(start: Start) -> None:
    threads: list[bool] = []

    class Notes(EchoEngine):
        def run(self, samples: Sequence[Sample], session: int = 0) -> Run:
            threads.append(threading.current_thread() is not threading.main_thread())
            return super().run(samples, session)

    model = start(echo_model(Notes(values=None), batch_size=64))
    asker = Asker(model)
    for number in range(20):
        await asker.answer([number, 2.0, 3.0, 4.0])
    assert not any(threads[2:])
    del threads[:]
    await asker.answer(v2([[1.0] * 100_000], binary=True))
    await asker.answer(v2([[2.0] * 4] * 50, binary=True))  # many rows are no longer input
    assert threads == [True, False]


async def test_a_model_whose_sizes_are_fixed_is_quick_whatever_it_is_sent(start: Start) -> None:
    model = start(echo_model(EchoEngine()))
    assert model._usual([])
    await Asker(model).answer([1, 2, 3, 4])
