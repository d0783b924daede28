"""A check of the engine: the path of a request, before all that waits, and without a trace in cache and numbers."""

from pathlib import Path

import pytest

from inference_site.lib.errors import ApiError
from inference_site.lib.frames import Cache, Tell
from inference_site.lib.record import Record
from tests.support import onnx_models
from tests.worker_app.asker import Asker
from tests.worker_app.conftest import Start
from tests.worker_app.echo_engine import EchoEngine, echo_model
from worker_app.core.batcher import FIRST
from worker_app.engine import Engine, EngineError
from worker_app.model import Model
from worker_app.stats import model_stats

ZEROS = bytes(16)


async def test_it_runs_before_all_that_waits_and_leaves_no_trace() -> None:
    engine = EchoEngine()
    model = echo_model(engine, batch_size=3)
    asker = Asker(model)
    for number in range(1, 6):
        asker.ask([number, 0, 0, 0])
    before = model_stats(model)
    asker.check("check")
    assert model_stats(model) == before
    await model.run_batches()
    assert asker.answers["check"] == (Tell.RESULT, Cache.MISS, 200, b"")
    assert engine.runs[0] == [ZEROS]
    assert list(map(len, engine.runs)) == [1, 3, 2]
    stats = model_stats(model)
    assert (stats["total_requests"], stats["cache_size"]) == (5, 5)
    assert (stats["batch_processor"]["total_batches"], stats["batch_processor"]["avg_batch_size"]) == (2, 2.5)
    asker.check("alone")
    await model.run_batches()
    assert model_stats(model)["batch_processor"] == stats["batch_processor"]
    model.close()


async def test_a_model_of_which_no_input_is_known_is_not_run() -> None:
    engine = EchoEngine()
    engine.cold = True
    model = echo_model(engine)
    asker = Asker(model)
    asker.check("check")
    assert asker.answers["check"] == (Tell.RESULT, Cache.MISS, 200, b"")
    assert engine.ran == 0
    model.close()


async def test_it_neither_joins_nor_fills_nor_asks_the_cache(start: Start) -> None:
    engine = EchoEngine()
    model = echo_model(engine)
    asker = Asker(model)
    asker.ask([0, 0, 0, 0], "request")
    asker.check("first")
    asker.check("second")
    start(model)
    await asker.everything()
    assert engine.runs == [[ZEROS]] * 3
    assert asker.answers["request"] == (Tell.RESULT, Cache.MISS, 200, b"[0.0,0.0,0.0,0.0]")
    assert (model.tally.joined, model.tally.hits) == (0, 0)
    asker.check("cached?")
    await asker.everything()
    assert engine.ran == 4


async def test_a_lazy_worker_runs_it_at_once_and_alone() -> None:
    engine = EchoEngine()
    model = echo_model(engine, batch_eager=False, batch_wait_ms=60_000.0)
    asker = Asker(model)
    asker.ask([1, 0, 0, 0], "lazy")
    asker.check("check")
    await model.run_batches()
    assert set(asker.answers) == {"check"}
    assert engine.runs == [[ZEROS]]
    model.close()


@pytest.mark.parametrize("failure", [EngineError("out of memory"), ApiError(422, "model_refused_input", "odd")])
async def test_a_failure_is_the_workers_and_says_why(start: Start, failure: ApiError | EngineError) -> None:
    engine = EchoEngine()
    engine.refuses[ZEROS] = failure
    asker = Asker(start(echo_model(engine)))
    asker.check("check")
    await asker.everything()
    kind, _, _, payload = asker.answers["check"]
    assert (kind, payload) == (Tell.FAILED, str(failure).encode())
    assert payload


async def test_a_full_queue_has_room_for_checks_but_not_without_end() -> None:
    model = echo_model()
    model.batcher.limit = 1
    asker = Asker(model)
    asker.ask([1, 0, 0, 0], "request")
    for number in range(FIRST + 1):
        asker.check(number)
    assert {token: answer[0] for token, answer in asker.answers.items()} == {FIRST: Tell.BUSY}
    await model.run_batches()
    await asker.everything()
    model.close()


async def test_the_real_engine_checks_out(start: Start, tmp_path: Path) -> None:
    for model in (onnx_models.linear, onnx_models.integer_input):
        asker = Asker(start(Model(Engine(model(tmp_path / f"{model.__name__}.onnx"), Record(), name="m", version="1"))))
        asker.check("check")
        await asker.everything()
        assert asker.answers["check"][0] is Tell.RESULT
