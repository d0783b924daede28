"""A large ask that was answered once and is forgotten, while somebody asks for the same in fewer bytes."""

from __future__ import annotations

from inference_site.lib.frames import Cache, Tell
from tests.support.waiting import until
from tests.worker_app.asker import Asker
from tests.worker_app.conftest import Start
from tests.worker_app.echo_engine import echo_model
from tests.worker_app.test_aside import VALUES, SlowReader, echoed, large

SHORT = b"[%b]" % b",".join([b"1"] * VALUES)


async def forgotten(asker: Asker, engine: SlowReader) -> None:
    """Its key is known, and what came after it has taken its place in the cache."""
    engine.open.set()
    await asker.answer(large(1))
    await asker.answer(large(2))
    engine.open.clear()
    engine.begun = 0


async def test_it_is_not_run_if_the_same_was_answered_while_it_was_read(start: Start) -> None:
    engine = SlowReader()
    asker = Asker(start(echo_model(engine, cache_entries=1)))
    await forgotten(asker, engine)
    token = asker.ask(large(1))
    await until(lambda: engine.begun)
    short = asker.ask(SHORT)
    await until(lambda: short in asker.answers)
    assert asker.answers[short][1] is Cache.MISS
    engine.open.set()
    await asker.everything()
    assert asker.answers[token] == (Tell.RESULT, Cache.HIT, 200, echoed(1))
    assert engine.ran == 3
    statistics = asker.model.tally.statistics
    assert (statistics.success, statistics.cache_hits, statistics.cache_misses) == (4, 1, 3)


async def test_it_joins_if_the_same_is_under_way_when_it_has_been_read(start: Start) -> None:
    engine = SlowReader()
    model = echo_model(engine, cache_entries=1)
    asker = Asker(start(model))
    await forgotten(asker, engine)
    token = asker.ask(large(1))
    await until(lambda: engine.begun)
    engine.typical_s = engine.takes_s = 0.5  # in a thread
    short = asker.ask(SHORT)
    engine.open.set()
    await asker.everything()
    assert {asker.answers[each][3] for each in (token, short)} == {echoed(1)}
    assert engine.ran == 3
    assert len(model.results) == 1
    statistics = model.tally.statistics
    assert statistics.cache_hits + statistics.cache_misses == statistics.success == 4
