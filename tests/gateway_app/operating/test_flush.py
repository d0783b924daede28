"""After a flush nothing that was computed before it is answered, by no way that results take."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from gateway_app.config import Snapshot, WorkerEntry
from gateway_app.inference import Inference
from inference_site.lib import frames
from inference_site.lib.asks import key_of
from inference_site.lib.frames import Ask
from inference_site.lib.handoff import Entries, Entry, encode
from tests.gateway_app.lineup import Cluster
from tests.gateway_app.scripted import Connection, Server, ready
from tests.support.waiting import until

HOT = b"[7]"


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    made = Cluster()
    await made.start(ready(name="echo", digest="d"))
    yield made
    await made.end()


def order(cluster: Cluster, name: str, *, what: str = "flush", by: int = 1) -> None:
    """What an operator orders, as a gateway sees it in its next snapshot."""
    entries = tuple(
        replace(entry, order=what, order_number=entry.order_number + by) if entry.name == name else entry
        for entry in cluster.snapshot.workers
    )
    cluster.configure(workers=entries)


def inference_of(cluster: Cluster) -> Inference:
    return cluster.gateway.lineup.served["echo", "1"].inference


def flushes(cluster: Cluster, name: str) -> int:
    return sum(len(each.orders(Ask.FLUSH)) for each in cluster.workers[name].connections)


async def heat(cluster: Cluster) -> None:
    """Until the gateway answers this itself."""
    hot = inference_of(cluster).hot
    for _ in range(10):
        await cluster.ask(HOT, "echo").output()
    assert hot.get(0, b"") is None
    assert len(hot) == 1


async def test_the_worker_is_told_and_the_gateways_own_results_are_gone(cluster: Cluster) -> None:
    await heat(cluster)
    inference = inference_of(cluster)
    order(cluster, "worker_2")
    assert len(inference.hot) == 0
    await until(lambda: flushes(cluster, "worker_2") == 1)
    # Its settings come before, on the same connection; what is asked after it is behind it.
    kinds = [each[0] for each in cluster.workers["worker_2"].open[0].asks]
    assert kinds[-2:] == [Ask.SETTINGS, Ask.FLUSH]
    assert (flushes(cluster, "worker_1"), flushes(cluster, "worker_3")) == (0, 0)
    told = cluster.ask(HOT, "echo")
    await told.output()
    assert b"x-cache: gateway" not in told.headers
    cluster.configure()  # another revision: the order is carried out once
    await cluster.ask(HOT, "echo").output()
    assert flushes(cluster, "worker_2") == 1


def asked(cluster: Cluster) -> list[tuple[Connection, int]]:
    """Where the workers were asked for it, under which id."""
    return [
        (connection, ident)
        for worker in cluster.workers.values()
        for connection in worker.open
        for ident, payload in connection.infers()
        if payload == HOT
    ]


async def test_what_was_on_its_way_is_neither_kept_nor_joined(cluster: Cluster) -> None:
    await heat(cluster)
    inference = inference_of(cluster)
    inference.hot.flush()
    for worker in cluster.workers.values():
        worker.answers = False
    earlier = len(asked(cluster))
    before, joined = cluster.ask(HOT, "echo"), cluster.ask(HOT, "echo")
    order(cluster, "worker_1")
    after = cluster.ask(HOT, "echo")
    assert inference.joined == 1  # the one before the flush
    await until(lambda: len(asked(cluster)) == earlier + 2)
    routing = key_of(HOT, inference.seed)

    async def answer(place: int, output: bytes) -> None:
        connection, ident = asked(cluster)[place]
        check = frames.check_of(output, routing)
        await connection.send(frames.tell(frames.Tell.RESULT, ident, output, 200, check=check))

    await answer(-2, b"[1]")
    assert (await before.output(), await joined.output()) == (b"[1]", b"[1]")
    assert len(inference.hot) == 0
    await answer(-1, b"[2]")
    assert await after.output() == b"[2]"
    assert len(inference.hot) == 1


async def test_a_worker_that_is_away_is_told_when_it_is_back(cluster: Cluster) -> None:
    worker = cluster.workers["worker_2"]
    worker.greets = lambda connection: False
    for connection in worker.open:
        await connection.close()
    await until(lambda: not cluster.gateway.links["worker_2"].up)
    order(cluster, "worker_2")
    assert flushes(cluster, "worker_2") == 0
    worker.greets = lambda connection: True
    for connection in worker.open:  # that was not greeted
        await connection.close()
    await until(lambda: cluster.gateway.links["worker_2"].ready)
    await until(lambda: flushes(cluster, "worker_2") == 1)


async def test_a_worker_that_is_disabled_is_told_when_it_is_enabled_again(cluster: Cluster) -> None:
    def enable(enabled: bool) -> None:
        entries = (replace(each, enabled=enabled or each.name != "worker_2") for each in cluster.snapshot.workers)
        cluster.configure(workers=tuple(entries))

    await heat(cluster)
    enable(False)
    await until(lambda: "worker_2" not in cluster.gateway.links)
    order(cluster, "worker_2")
    assert len(inference_of(cluster).hot) == 0
    assert flushes(cluster, "worker_2") == 0
    enable(True)
    await until(lambda: "worker_2" in cluster.gateway.links)
    await until(lambda: flushes(cluster, "worker_2") == 1)
    cluster.configure()
    await cluster.ask(HOT, "echo").output()
    assert flushes(cluster, "worker_2") == 1


async def test_a_gateway_that_starts_makes_up_for_one_that_was_ordered_while_none_ran() -> None:
    made = Cluster()
    made.servers = {name: Server(worker) for name, worker in made.workers.items()}
    before = tuple(WorkerEntry(name, "127.0.0.1", server.port) for name, server in made.servers.items())
    made.gateway.watcher.earlier = Snapshot(workers=before)
    orders = {"worker_1": "trip", "worker_2": "flush"}
    made.configure(
        workers=tuple(
            replace(each, order=orders[each.name], order_number=1) if each.name in orders else each for each in before
        )
    )
    await until(lambda: all(link.ready for link in made.gateway.links.values()))
    await until(lambda: flushes(made, "worker_2") == 1)
    assert (flushes(made, "worker_1"), flushes(made, "worker_3")) == (0, 0)
    await made.end()


async def test_an_order_that_was_missed_may_have_been_one(cluster: Cluster) -> None:
    order(cluster, "worker_1", what="reset", by=1)
    await cluster.ask(b"[1]", "echo").output()
    assert flushes(cluster, "worker_1") == 0
    order(cluster, "worker_1", what="reset", by=2)
    await until(lambda: flushes(cluster, "worker_1") == 1)


async def test_results_that_were_handed_over_are_passed_on_no_more(cluster: Cluster) -> None:
    gateway = cluster.gateway
    link = gateway.links["worker_1"]
    gateway.handoff.leaving(link)
    entry: Any = Entry(0, b"[0]", b"[0]", b"[0]")
    chunk = encode(Entries("echo", "1", "d", [entry]))
    gateway.handoff.take(link, chunk)
    order(cluster, "worker_1")
    gateway.handoff.returned(link)
    await until(lambda: flushes(cluster, "worker_1") == 1)
    await asyncio.sleep(0)
    assert not any(each.orders(Ask.KEEP) for each in cluster.workers["worker_1"].open)
