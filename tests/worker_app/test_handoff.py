"""Cached results move from one worker to another and are served there byte for byte as they were here."""

import random
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from xxhash import xxh3_64_intdigest

from inference_site.lib import handoff
from inference_site.lib.frames import Cache, Tell
from inference_site.lib.handoff import CHUNK_BYTES, SHARE_BYTES, Entries, Entry
from tests.worker_app.asker import Asker
from tests.worker_app.echo_engine import EchoEngine, echo_node
from worker_app.handoff import chunks, keep
from worker_app.node import Node
from worker_app.stats import node_stats

Start = Callable[[Node], Node]


def flexible_node(**settings: Any) -> Node:
    return echo_node(EchoEngine(values=None), **settings)


def shared(node: Node) -> list[Entry]:
    return [entry for chunk in chunks(node) for entry in handoff.decode(chunk).entries]


def hand_over(giver: Node, taker: Node) -> None:
    for chunk in chunks(giver):
        keep(taker, chunk)


async def test_what_is_handed_over_is_a_hit_and_the_same_to_the_byte(start: Start) -> None:
    rng = random.Random(3)
    # Short and long texts and samples, in all four combinations.
    inputs = [[rng.random() for _ in range(size)] for size in (1, 4, 100, 300, 600, 2000)]
    inputs += [[0] * 600, [0] * 1500]
    giver, taker = Asker(start(flexible_node())), Asker(start(flexible_node()))
    answers = [(await giver.answer(values))[3] for values in inputs]
    hand_over(giver.node, taker.node)
    assert node_stats(taker.node)["kept"] == len(inputs)
    for values, answer in zip(inputs, answers, strict=True):
        assert await taker.answer(values) == (Tell.RESULT, Cache.HIT, 200, answer)
    assert taker.node.total_requests == taker.node.cache_hits == len(inputs)


async def test_every_text_goes_with_its_routing_key(start: Start) -> None:
    asker = Asker(start(flexible_node()))
    long = b"[" + b"1.0, " * 600 + b"1]"
    texts = [b"[1,2]", b"[1.0, 2.0]", long]
    for text in texts:
        await asker.answer(text)
    entries = shared(asker.node)
    assert [entry.routing for entry in entries] == [xxh3_64_intdigest(text) for text in reversed(texts)]
    assert entries[1].key == entries[2].key
    assert entries[1].output == entries[2].output


async def test_the_hottest_come_first(start: Start) -> None:
    asker = Asker(start(echo_node()))
    for number in (1, 2, 3, 4, 2):
        await asker.answer([number, 0, 0, 0])
    outputs = [entry.output for entry in shared(asker.node)]
    assert outputs == [b"[%d.0,0.0,0.0,0.0]" % number for number in (2, 4, 3, 1)]


async def test_what_was_handed_over_is_handed_on_and_forgotten_first(start: Start) -> None:
    giver, taker = Asker(start(echo_node())), Asker(start(echo_node(cache_entries=4)))
    for number in (1, 2, 3):
        await giver.answer([number, 0, 0, 0])
    for number in (8, 9):
        await taker.answer([number, 0, 0, 0])
    hand_over(giver.node, taker.node)
    # There was room for two; the hottest got it, in their order.
    assert [entry.output[:3] for entry in shared(taker.node)] == [b"[9.", b"[8.", b"[3.", b"[2."]
    await taker.answer([10, 0, 0, 0])
    assert [entry.output[:3] for entry in shared(taker.node)] == [b"[10", b"[9.", b"[8.", b"[3."]


async def test_it_evicts_nothing_whatever_the_budget(start: Start) -> None:
    giver = Asker(start(echo_node()))
    for number in range(200):
        await giver.answer([number, 0, 0, 0])
    for entries, size_bytes in ((0, 10**6), (50, 10**6), (1000, 1000), (1000, 0)):
        taker = Asker(start(echo_node(cache_entries=entries, cache_bytes=size_bytes)))
        for number in range(1000, 1060):
            await taker.answer([number, 0, 0, 0])
        before = [(key, taker.node.results.evictions) for key, _ in taker.node.results.newest_first()]
        hand_over(giver.node, taker.node)
        after = [(key, taker.node.results.evictions) for key, _ in taker.node.results.newest_first()]
        assert after[: len(before)] == before
        assert len(after) <= taker.node.results.max_entries
        assert taker.node.results.size_bytes <= taker.node.results.max_bytes
        assert taker.node.aliases.size_bytes <= taker.node.aliases.max_bytes


async def test_what_it_has_already_stays_as_it_is(start: Start) -> None:
    giver, taker = Asker(start(echo_node())), Asker(start(echo_node()))
    await giver.answer(b"[1,0,0,0]")
    await taker.answer(b"[1.0,0,0,0]")
    hand_over(giver.node, taker.node)
    assert (taker.node.kept, len(taker.node.results)) == (0, 1)
    # But the other way to write it is known now, and has its owner.
    assert len(shared(taker.node)) == 2


async def test_another_models_results_are_ignored(start: Start) -> None:
    node = echo_node()
    entry = Entry(xxh3_64_intdigest(b"[1,0,0,0]"), b"[1,0,0,0]", bytes(16), b"[7]")
    keep(node, handoff.encode(Entries("another", [entry])))
    assert len(node.results) == len(node.aliases) == node.kept == 0
    keep(node, handoff.encode(Entries(node.engine.digest, [entry])))
    assert node.kept == 1
    node.close()


@pytest.mark.parametrize("alias", ["", "0123", "zz" * 40, "-" * 80, b"[2,0,0,0]"])
def test_an_entry_whose_parts_do_not_belong_together_is_ignored(alias: bytes | str) -> None:
    node = echo_node()
    keep(node, handoff.encode(Entries(node.engine.digest, [Entry(5, alias, bytes(16), b"[7]")])))
    assert node.kept == len(node.aliases) == 0
    node.close()


def test_it_shares_so_much_and_no_more_in_chunks_with_an_end() -> None:
    node = echo_node(cache_entries=10_000, cache_bytes=2**30)
    for number in range(300):
        node.keep(b"[%d]" % number, b"%d" % number, bytes(100_000))
    node.keep(b"[0.5]", b"huge", bytes(SHARE_BYTES))  # it alone would leave no room
    node.keep(b"[0.7]", b"small", b"[0.7]")
    found = list(chunks(node))
    assert handoff.decode(found[-1]).entries == []
    assert all(handoff.decode(chunk).entries for chunk in found[:-1])
    assert all(len(chunk) < CHUNK_BYTES + 110_000 for chunk in found)
    assert SHARE_BYTES - 110_000 < sum(map(len, found)) < SHARE_BYTES + 10_000
    assert shared(node)[-1].output == b"[0.7]"
    node.close()


def test_an_empty_cache_shares_its_end() -> None:
    node = echo_node()
    assert [handoff.decode(chunk).entries for chunk in chunks(node)] == [[]]
    node.close()


async def test_the_cache_may_change_while_it_is_shared(start: Start) -> None:
    node = start(echo_node(cache_entries=1000))
    for number in range(1000):
        node.keep(b"[%d,0,0,0]" % number, b"%d" % number, b"%d" % number + bytes(1000))
    asker = Asker(node)
    entries = []
    for turn, chunk in enumerate(chunks(node)):
        entries += handoff.decode(chunk).entries
        for number in range(300):
            asker.ask(orjson.dumps([2000 + number, turn, 0, 0]))
        await asker.everything()
    # The coldest were forgotten meanwhile; what is shared is whole, and nothing twice.
    assert 300 < len(entries) < 1000
    assert [entry.alias for entry in entries] == [b"[%d,0,0,0]" % number for number in range(len(entries))]
    assert all(entry.output == entry.key + bytes(1000) for entry in entries)  # type: ignore[operator]
