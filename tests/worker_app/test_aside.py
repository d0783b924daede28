"""Large asks are read in a thread, in their order; they wait, join, expire and are withdrawn as others do."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from struct import pack

import msgspec
import numpy as np
import pytest

from inference_site.lib import asks
from inference_site.lib.errors import ApiError
from inference_site.lib.frames import Cache, Tell
from inference_site.lib.record import Record
from tests.support.waiting import PATIENCE_S, until
from tests.worker_app.asker import Asker
from tests.worker_app.conftest import Start
from tests.worker_app.echo_engine import EchoEngine, echo, echo_model
from worker_app.aside import LARGE_BYTES, reads_at_once
from worker_app.samples import Sample

VALUES = 20_000  # more than LARGE_BYTES in any form


class SlowReader(EchoEngine):
    """Reads when `open` is set; `read_in` has the thread of each ask, `begun` is how many threads have come to it."""

    def __init__(self, values: int = VALUES) -> None:
        super().__init__(values)
        self.open = threading.Event()
        self.begun = 0
        self.read_in: list[tuple[str, int]] = []
        self._read = self.read
        self.read = self._slowly

    def _slowly(self, ask: bytes) -> Sample:
        if len(ask) > LARGE_BYTES and threading.current_thread() is not threading.main_thread():
            self.begun += 1
            assert self.open.wait(PATIENCE_S)
        if len(ask) > LARGE_BYTES:
            self.read_in.append((threading.current_thread().name, len(ask)))
        return self._read(ask)


def large(number: float, values: int = VALUES) -> bytes:
    return b"[%b]" % b",".join([b"%f" % number] * values)


def echoed(number: float) -> bytes:
    return echo(np.full(VALUES, number, "f4").tobytes())


def binary(number: float, values: int = VALUES) -> bytes:
    data = np.full(values, number, "<f4").tobytes()
    head = {
        "name": "input",
        "datatype": "FP32",
        "shape": [1, values],
        "parameters": {"binary_data_size": len(data)},
    }
    return asks.pack_v2(msgspec.json.encode([head]), None, True, data)


@pytest.mark.parametrize("ask", [large, binary])
async def test_a_large_ask_is_read_and_answered_from_a_thread(start: Start, ask: Callable[[float], bytes]) -> None:
    engine = SlowReader()
    engine.open.set()
    asker = Asker(start(echo_model(engine)))
    first = await asker.answer(ask(1))
    again = await asker.answer(ask(1))
    other = await asker.answer(ask(2))
    assert (first[0], first[1], again[1], other[1]) == (Tell.RESULT, Cache.MISS, Cache.HIT, Cache.MISS)
    assert first[3] == again[3] != other[3]
    assert all("reader" in thread for thread, _ in engine.read_in)
    statistics = asker.model.tally.statistics
    assert (statistics.success, statistics.cache_hits, statistics.cache_misses) == (3, 1, 2)


async def test_a_repeated_large_text_is_not_read_again(start: Start) -> None:
    engine = SlowReader()
    engine.open.set()
    asker = Asker(start(echo_model(engine)))
    for _ in range(3):
        await asker.answer(large(1))
    assert len(engine.read_in) == 1


async def test_small_asks_are_answered_while_a_large_one_is_read(start: Start) -> None:
    engine = SlowReader()
    asker = Asker(start(echo_model(engine)))
    token = asker.ask(large(1))
    begun = asker.ask(large(2))
    for number in range(20):
        small = asker.ask(b"[%d]" % number)  # which does not fit, and is told so at once
        assert asker.answers[small][0] is Tell.REFUSED
        await asyncio.sleep(0)
    assert token not in asker.answers
    assert asker.model.in_flight == 2
    engine.open.set()
    await asker.everything()
    assert (asker.answers[token][3], asker.answers[begun][3]) == (echoed(1), echoed(2))


async def test_they_run_in_the_order_in_which_they_came(start: Start) -> None:
    engine = SlowReader()
    asker = Asker(start(echo_model(engine, batch_size=1)))
    for number in range(5):
        asker.ask(large(number))
    engine.open.set()
    await asker.everything()
    assert [np.frombuffer(run[0], "f4")[0] for run in engine.runs] == [0, 1, 2, 3, 4]


async def test_equal_large_asks_are_one_run(start: Start) -> None:
    engine = SlowReader()
    engine.open.set()
    engine.takes_s = engine.typical_s = 0.2
    asker = Asker(start(echo_model(engine)))
    tokens = [asker.ask(large(3)) for _ in range(5)] + [asker.ask(large(3, VALUES))]
    await asker.everything()
    assert engine.ran == 1
    assert len(engine.read_in) == 1
    assert {asker.answers[token][3] for token in tokens} == {echoed(3)}
    assert [asker.answers[token][1] for token in tokens].count(Cache.MISS) == 1


async def test_what_is_not_kept_is_not_joined(start: Start) -> None:
    engine = SlowReader()
    engine.open.set()
    asker = Asker(start(echo_model(engine, Record(cached=False))))
    for _ in range(3):
        asker.ask(large(3))
    await asker.everything()
    assert engine.ran == 3


async def test_who_leaves_is_not_read_for(start: Start) -> None:
    engine = SlowReader()
    asker = Asker(start(echo_model(engine)))
    jobs = [asker.job(large(number), number) for number in range(3)]
    await until(lambda: engine.begun)
    asker.leave(jobs[0], 0)
    asker.leave(jobs[1], 1)
    assert asker.model.in_flight == 2  # one is read in vain, one waits
    engine.open.set()
    await asker.everything()
    assert asker.answers[2][3] == echoed(2)
    assert len(engine.runs) == 1
    assert asker.model.tally.abandoned == 2


async def test_who_leaves_after_it_was_read_is_not_run_for() -> None:
    engine = SlowReader()
    engine.open.set()
    asker = Asker(echo_model(engine))  # nobody runs its batches
    one, two = asker.job(large(1), "one"), asker.job(large(1), "two")
    await until(lambda: not len(asker.model.aside))
    asker.leave(one, "one")
    assert asker.model.in_flight == 1
    asker.leave(two, "two")
    assert asker.model.in_flight == 0
    assert asker.model.tally.abandoned == 1
    asker.model.close()


async def test_whose_time_passes_before_it_is_read_is_told_so_and_not_run(start: Start) -> None:
    engine = SlowReader()
    asker = Asker(start(echo_model(engine)))
    kept = asker.ask(large(0))
    late = asker.ask(large(1), left_ms=30)
    await asyncio.sleep(0.05)
    engine.open.set()
    await asker.everything()
    assert asker.answers[kept][0] is Tell.RESULT
    assert asker.answers[late][:3] == (Tell.EXPIRED, Cache.MISS, 504)
    assert len(engine.read_in) == 1
    assert asker.model.tally.expired == 1


async def test_what_waits_to_be_read_takes_room_in_the_queue() -> None:
    engine = SlowReader()
    asker = Asker(echo_model(engine))
    asker.model.batcher.limit = 3
    kinds = [asker.ask(large(number)) for number in range(4)]
    assert asker.answers[kinds[3]][:3] == (Tell.BUSY, Cache.MISS, 503)
    small = asker.ask(b"[1]")
    assert asker.answers[small][0] is Tell.BUSY  # not even read
    engine.open.set()
    await until(lambda: not len(asker.model.aside))
    assert len(asker.model.batcher) == 3  # all that were let in
    await asker.model.run_batches()
    await asker.everything()
    asker.model.close()


@pytest.mark.parametrize("broken", [b"[" + b"1," * LARGE_BYTES, large(1)[:-1] + b",true]", large(1)[:-1] + b",7]"])
async def test_a_large_ask_that_does_not_fit_is_refused_as_a_small_one(start: Start, broken: bytes) -> None:
    engine = SlowReader()
    engine.open.set()
    asker = Asker(start(echo_model(engine)))
    with pytest.raises(ApiError) as fault:
        engine._read(broken)
    for _ in range(2):
        kind, _, status, payload = await asker.answer(broken)
        assert (kind, status) == (Tell.REFUSED, fault.value.status)
        assert msgspec.json.decode(payload)["error"] == fault.value.message
    assert asker.model.tally.statistics.fail == 2


async def test_a_bug_in_reading_a_large_ask_is_told_and_the_next_is_read(start: Start) -> None:
    engine = SlowReader()
    engine.open.set()
    asker = Asker(start(echo_model(engine)))
    read = engine.read

    def fail(ask: bytes) -> Sample:
        raise RuntimeError("a bug")

    engine.read = fail
    assert (await asker.answer(large(1)))[:3] == (Tell.FAILED, Cache.MISS, 503)
    engine.read = read
    assert (await asker.answer(large(1)))[3] == echoed(1)


async def test_a_watched_large_ask_is_read_before_all_that_wait(start: Start) -> None:
    engine = SlowReader()
    asker = Asker(start(echo_model(engine)))
    for number in range(3):
        asker.ask(large(number))
    asker.asked += 1
    asker.model.ask(large(9), "watched", asker.reply, 0, 77)
    engine.open.set()
    await asker.everything()
    order = [np.frombuffer(sample, "f4")[0] for run in engine.runs for sample in run]
    assert order.index(9) < order.index(1)


async def test_the_loop_goes_on_while_two_million_numbers_are_read(start: Start) -> None:
    """Not by how long it takes, which depends on the machine: by what the loop does meanwhile."""
    engine = SlowReader(2_000_000)
    engine.open.set()
    asker = Asker(start(echo_model(engine)))
    turns = 0
    token = asker.ask(large(1, 2_000_000))
    assert asker.model.in_flight == 1
    async with asyncio.timeout(PATIENCE_S):
        while token not in asker.answers:
            await asyncio.sleep(0)
            turns += 1
    assert turns > 10


def test_what_is_read_at_once_is_told_by_the_head() -> None:
    ask = binary(1)
    assert reads_at_once(ask)
    assert not reads_at_once(large(1))
    assert not reads_at_once(b'{"input":[1]}')
    for head in (
        b'{"inputs":[{"name":"s","datatype":"BYTES","shape":[1],"parameters":{"binary_data_size":9}}]}',
        b'{"inputs":[{"name":"s","datatype":"\\u0042YTES","shape":[1],"parameters":{"binary_data_size":9}}]}',
        b'{"inputs":[{"name":"s","datatype":"FP32","shape":[1],"data":[1]}]}',
        b'{"inputs":[{"name":"%b","datatype":"FP32","shape":[1]}]}' % (b"s" * 2000),
    ):
        assert not reads_at_once(pack("<BI", asks.V2, len(head)) + head)
