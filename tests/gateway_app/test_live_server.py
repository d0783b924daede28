"""Open pages under a real server: one that reads nothing is held to little memory, and is cut off."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn
from websockets.asyncio.client import connect

from gateway_app import consumers
from gateway_app import live as live_module
from gateway_app.gateway import Gateway
from inference_site import lifecycle
from inference_site.streaming import StreamProtocol
from tests.support.manyworkers import gateway_of
from tests.support.waiting import PATIENCE_S, until

UPGRADE = (
    b"GET /live HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
LARGE = {"filling": "x" * 8_000_000}  # more than sockets hold


class Site:
    """A server of pages alone."""

    def __init__(self, gateway: Gateway, server: uvicorn.Server, port: int) -> None:
        self.gateway = gateway
        self.server = server
        self.port = port

    @property
    def unsent(self) -> list[int]:
        """Bytes that each connection has not taken."""
        return [each.transport.get_write_buffer_size() for each in self.server.server_state.connections]

    def reader(self) -> connect:
        """A page that reads, however long that takes this machine."""
        return connect(
            f"ws://127.0.0.1:{self.port}/live", max_size=None, open_timeout=PATIENCE_S, ping_timeout=PATIENCE_S
        )


@pytest.fixture
async def site(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    gateway, _ = gateway_of(2)
    monkeypatch.setattr(lifecycle, "_service", SimpleNamespace(gateway=gateway, stopping=False))
    monkeypatch.setattr(live_module, "stats_of", lambda gateway: LARGE)
    monkeypatch.setattr(consumers, "STUCK_S", PATIENCE_S)
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        consumers.live, ws=StreamProtocol, ws_per_message_deflate=False, lifespan="off", log_config=None
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    telling = asyncio.create_task(gateway.live.run())
    await until(lambda: server.started)
    yield Site(gateway, server, listener.getsockname()[1])
    telling.cancel()
    server.should_exit = True
    await serving


async def test_who_reads_nothing_is_cut_off_and_the_others_go_on(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Gateway] = []

    def stats_of(gateway: Gateway) -> dict[str, Any]:
        made.append(gateway)
        return LARGE

    monkeypatch.setattr(live_module, "stats_of", stats_of)
    monkeypatch.setattr(consumers, "STUCK_S", 1.0)
    with socket.create_connection(("127.0.0.1", site.port)) as deaf:
        deaf.sendall(UPGRADE)
        await until(lambda: any(site.unsent))  # its first message is on its way, and stays there
        (client,) = site.gateway.live.clients
        site.gateway.live.poke()
        await until(lambda: len(made) > 1 and client._next is None)  # the second one waits for that
        monkeypatch.setattr(consumers, "STUCK_S", PATIENCE_S)
        async with site.reader() as reader:
            most = heard = 0
            while heard < 3 or len(site.gateway.live.clients) == 2:
                site.gateway.live.poke()
                assert list(json.loads(await reader.recv())["stats"]) == ["filling"]
                heard += 1
                most = max(most, *site.unsent)
            await until(lambda: len(site.server.server_state.connections) == 1)
            assert most < 2 * len(LARGE["filling"])
            site.gateway.live.poke()
            await reader.recv()


async def test_who_reads_slowly_gets_the_newest_and_stays(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    made = iter(range(10**6))
    async with site.reader() as reader:
        monkeypatch.setattr(live_module, "stats_of", lambda gateway: {**LARGE, "made": next(made)})
        found: list[int] = []
        while len(found) < 5:
            for _ in range(5):
                site.gateway.live.poke()
                await asyncio.sleep(0.02)
            stats: dict[str, Any] = json.loads(await reader.recv())["stats"]
            if "made" in stats:
                found.append(stats["made"])
        assert found == sorted(set(found))
