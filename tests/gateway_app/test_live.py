"""Open pages get the newest figures, made once for all, and nobody waits for a page that does not take them."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway_app import live as live_module
from gateway_app.gateway import Gateway
from gateway_app.live import MAX_CLIENTS, Client, Live
from tests.support.manyworkers import gateway_of
from tests.support.waiting import PATIENCE_S


class Site:
    """A gateway's pages; counts how often its figures are made."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.live = Live(gateway)
        self.made = 0

    def stats_of(self, gateway: Gateway) -> dict[str, Any]:
        self.made += 1
        return {"made": self.made}

    def join(self) -> Client:
        client = self.live.join()
        assert isinstance(client, Client)
        return client


@pytest.fixture
async def site(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    gateway, _ = gateway_of(2)
    gateway.history.tick(gateway)
    made = Site(gateway)
    monkeypatch.setattr(live_module, "stats_of", made.stats_of)
    monkeypatch.setattr(live_module, "TOGETHER_S", 0.005)
    task = asyncio.get_running_loop().create_task(made.live.run())
    yield made
    task.cancel()


async def told(client: Client) -> dict[str, Any]:
    async with asyncio.timeout(PATIENCE_S):
        message = await client.take()
    assert message is not None
    found: dict[str, Any] = json.loads(message)
    return found


async def test_a_page_gets_the_history_first_and_then_what_is_new(site: Site) -> None:
    client = site.join()
    first = await told(client)
    assert (first["type"], first["stats"]) == ("start", {"made": 1})
    assert first["history"] == {"step_s": 1, "points": site.gateway.history.points}
    site.live.poke()
    assert await told(client) == {"type": "stats", "stats": {"made": 2}}


async def test_figures_are_made_once_for_all_pages_and_for_what_happens_together(site: Site) -> None:
    clients = [site.join() for _ in range(10)]
    assert {json.dumps((await told(client))["stats"]) for client in clients} == {'{"made": 1}'}
    for _ in range(100):
        site.live.poke()
    found = [await told(client) for client in clients]
    assert {each["type"] for each in found} == {"stats"}
    assert site.made == 2


async def test_no_figures_are_made_without_a_page(site: Site) -> None:
    for _ in range(20):
        site.live.poke()
        await asyncio.sleep(0.001)
    assert site.made == 0
    client = site.join()
    await told(client)
    site.live.leave(client)
    site.live.poke()
    other = site.join()  # whose coming shows that the poke has been dealt with
    await told(other)
    assert site.made == 2


async def test_a_page_that_takes_nothing_keeps_one_message_and_holds_up_nobody(site: Site) -> None:
    slow, quick = site.join(), site.join()
    await told(quick)
    for _ in range(5):
        site.live.poke()
        await told(quick)
    assert (await told(slow))["type"] == "start"  # with the history, which nothing replaces
    for _ in range(5):
        site.live.poke()
        newest = await told(quick)
    assert await told(slow) == newest


async def test_a_page_that_comes_later_gets_its_own_start(site: Site) -> None:
    first = site.join()
    await told(first)
    second = site.join()
    assert (await told(second))["type"] == "start"
    assert (await told(first))["type"] == "stats"


async def test_there_is_room_for_so_many_pages(site: Site) -> None:
    clients = [site.join() for _ in range(MAX_CLIENTS)]
    assert site.live.join() == 1013
    site.live.leave(clients[0])
    site.join()


async def test_pages_are_sent_away_by_a_process_that_stops(site: Site) -> None:
    client = site.join()
    site.live.drain()
    assert await client.take() is None
    assert client.closing == 1012
    assert site.live.join() == 1012


async def test_figures_that_cannot_be_made_are_made_the_next_time(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failed = asyncio.Event()

    def fail(gateway: Gateway) -> dict[str, Any]:
        failed.set()
        raise ZeroDivisionError

    monkeypatch.setattr(live_module, "stats_of", fail)
    client = site.join()
    await asyncio.wait_for(failed.wait(), PATIENCE_S)
    monkeypatch.setattr(live_module, "stats_of", site.stats_of)
    site.live.poke()
    assert (await told(client))["type"] == "start"
    assert "open pages could not be told" in caplog.text


@pytest.mark.parametrize(("took_s", "apart_s"), [(0.02, 9 * 0.02 - 0.005), (3.0, live_module.APART_S)])
async def test_in_a_storm_of_events_figures_take_a_part_of_the_time_only(
    site: Site, monkeypatch: pytest.MonkeyPatch, took_s: float, apart_s: float
) -> None:
    pauses: list[float] = []
    real_sleep = asyncio.sleep

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        await real_sleep(0)

    times = iter(range(1000))
    site.live._clock = lambda: next(times) * took_s
    monkeypatch.setattr(asyncio, "sleep", sleep)
    client = site.join()
    for _ in range(3):
        site.live.poke()
        await told(client)
        await real_sleep(0)
    assert pauses[:2] == [0.005, pytest.approx(apart_s)]
