"""Cached results move from one worker to another and are served there byte for byte as they were here."""

import random
from typing import Any

import orjson
import pytest

from inference_site.lib import asks, handoff
from inference_site.lib.frames import Cache, Tell
from inference_site.lib.handoff import CHUNK_BYTES, SHARE_BYTES, Entries, Entry
from tests.worker_app.asker import Asker
from tests.worker_app.conftest import Start
from tests.worker_app.echo_engine import EchoEngine, echo_model
from worker_app.handoff import chunks, keep
from worker_app.model import Model
from worker_app.stats import model_stats


def flexible_model(**settings: Any) -> Model:
    return echo_model(EchoEngine(values=None), **settings)


def shared(model: Model) -> list[Entry]:
    return [entry for chunk in chunks(model) for entry in handoff.decode(chunk).entries]


def hand_over(giver: Model, taker: Model) -> None:
    for chunk in chunks(giver):
        keep([taker], chunk)


async def test_what_is_handed_over_is_a_hit_and_the_same_to_the_byte(start: Start) -> None:
    rng = random.Random(3)
    # Short and long texts and samples, in all four combinations.
    inputs = [[rng.random() for _ in range(size)] for size in (1, 4, 100, 300, 600, 2000)]
    inputs += [[0] * 600, [0] * 1500]
    giver, taker = Asker(start(flexible_model())), Asker(start(flexible_model()))
    answers = [(await giver.answer(values))[3] for values in inputs]
    hand_over(giver.model, taker.model)
    assert model_stats(taker.model)["kept"] == len(inputs)
    for values, answer in zip(inputs, answers, strict=True):
        assert await taker.answer(values) == (Tell.RESULT, Cache.HIT, 200, answer)
    assert taker.model.tally.requests == taker.model.tally.hits == len(inputs)


async def test_every_text_goes_with_its_routing_key(start: Start) -> None:
    asker = Asker(start(flexible_model()))
    long = b"[" + b"1.0, " * 600 + b"1]"
    texts = [b"[1,2]", b"[1.0, 2.0]", long]
    for text in texts:
        await asker.answer(text)
    entries = shared(asker.model)
    assert [entry.routing for entry in entries] == [asks.key_of(text, asker.model.seed) for text in reversed(texts)]
    assert entries[1].key == entries[2].key
    assert entries[1].output == entries[2].output


async def test_the_hottest_come_first(start: Start) -> None:
    asker = Asker(start(echo_model()))
    for number in (1, 2, 3, 4, 2):
        await asker.answer([number, 0, 0, 0])
    outputs = [entry.output for entry in shared(asker.model)]
    assert outputs == [b"[%d.0,0.0,0.0,0.0]" % number for number in (2, 4, 3, 1)]


async def test_what_was_handed_over_is_handed_on_and_forgotten_first(start: Start) -> None:
    giver, taker = Asker(start(echo_model())), Asker(start(echo_model(cache_entries=4)))
    for number in (1, 2, 3):
        await giver.answer([number, 0, 0, 0])
    for number in (8, 9):
        await taker.answer([number, 0, 0, 0])
    hand_over(giver.model, taker.model)
    # There was room for two; the hottest got it, in their order.
    assert [entry.output[:3] for entry in shared(taker.model)] == [b"[9.", b"[8.", b"[3.", b"[2."]
    await taker.answer([10, 0, 0, 0])
    assert [entry.output[:3] for entry in shared(taker.model)] == [b"[10", b"[9.", b"[8.", b"[3."]


async def test_it_evicts_nothing_whatever_the_budget(start: Start) -> None:
    giver = Asker(start(echo_model()))
    for number in range(200):
        await giver.answer([number, 0, 0, 0])
    for entries, size_bytes in ((0, 10**6), (50, 10**6), (1000, 1000), (1000, 0)):
        taker = Asker(start(echo_model(cache_entries=entries, cache_bytes=size_bytes)))
        for number in range(1000, 1060):
            await taker.answer([number, 0, 0, 0])
        before = [key for key, _ in taker.model.results.newest_first()]
        hand_over(giver.model, taker.model)
        after = [key for key, _ in taker.model.results.newest_first()]
        assert after[: len(before)] == before
        assert len(after) <= taker.model.results.max_entries
        assert taker.model.results.size_bytes <= taker.model.results.max_bytes
        assert taker.model.aliases.size_bytes <= taker.model.aliases.max_bytes


async def test_what_it_has_already_stays_as_it_is(start: Start) -> None:
    giver, taker = Asker(start(echo_model())), Asker(start(echo_model()))
    await giver.answer(b"[1,0,0,0]")
    await taker.answer(b"[1.0,0,0,0]")
    hand_over(giver.model, taker.model)
    assert (taker.model.tally.kept, len(taker.model.results)) == (0, 1)
    # But the other way to write it is known now, and has its owner.
    assert len(shared(taker.model)) == 2


async def test_another_models_results_are_ignored() -> None:
    model = echo_model()
    entry = Entry(asks.key_of(b"[1,0,0,0]", model.seed), b"[1,0,0,0]", bytes(16), b"[7]")
    keep([model], handoff.encode(Entries("echo", "1", "another", [entry])))
    keep([model], handoff.encode(Entries("echo", "2", model.engine.digest, [entry])))
    keep([model], handoff.encode(Entries("other", "1", model.engine.digest, [entry])))
    assert len(model.results) == len(model.aliases) == model.tally.kept == 0
    keep([model], handoff.encode(Entries("echo", "1", model.engine.digest, [entry])))
    assert model.tally.kept == 1
    model.close()


@pytest.mark.parametrize("alias", ["", "0123", "zz" * 40, "-" * 80, b"[2,0,0,0]"])
def test_an_entry_whose_parts_do_not_belong_together_is_ignored(alias: bytes | str) -> None:
    model = echo_model()
    keep([model], handoff.encode(Entries("echo", "1", model.engine.digest, [Entry(5, alias, bytes(16), b"[7]")])))
    assert model.tally.kept == len(model.aliases) == 0
    model.close()


def test_it_shares_so_much_and_no_more_in_chunks_with_an_end() -> None:
    model = echo_model(cache_entries=10_000, cache_bytes=2**30)
    for number in range(300):
        model.keep(b"[%d]" % number, b"%d" % number, bytes(100_000))
    model.keep(b"[0.5]", b"huge", bytes(SHARE_BYTES))  # it alone would leave no room
    model.keep(b"[0.7]", b"small", b"[0.7]")
    found = list(chunks(model))
    assert handoff.decode(found[-1]).entries == []
    assert all(handoff.decode(chunk).entries for chunk in found[:-1])
    assert all(len(chunk) < CHUNK_BYTES + 110_000 for chunk in found)
    assert SHARE_BYTES - 110_000 < sum(map(len, found)) < SHARE_BYTES + 10_000
    assert shared(model)[-1].output == b"[0.7]"
    model.close()


def test_an_empty_cache_shares_its_end() -> None:
    model = echo_model()
    assert [handoff.decode(chunk).entries for chunk in chunks(model)] == [[]]
    model.close()


async def test_the_cache_may_change_while_it_is_shared(start: Start) -> None:
    model = start(echo_model(cache_entries=1000))
    for number in range(1000):
        model.keep(b"[%d,0,0,0]" % number, b"%d" % number, b"%d" % number + bytes(1000))
    asker = Asker(model)
    entries = []
    for turn, chunk in enumerate(chunks(model)):
        entries += handoff.decode(chunk).entries
        for number in range(300):
            asker.ask(orjson.dumps([2000 + number, turn, 0, 0]))
        await asker.everything()
    # The coldest were forgotten meanwhile; what is shared is whole, and nothing twice.
    assert 300 < len(entries) < 1000
    assert [entry.alias for entry in entries] == [b"[%d,0,0,0]" % number for number in range(len(entries))]
    assert all(entry.output == entry.key + bytes(1000) for entry in entries)  # type: ignore[operator]
