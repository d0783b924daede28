"""The WebSocket protocol of the streams, in a real server: what is sent in parts is one message."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn
from websockets.asyncio.client import ClientConnection, connect

from inference_site.lib import frames
from inference_site.streaming import PARTS, StreamProtocol
from tests.support.waiting import PATIENCE_S, until

LARGE = bytes(range(256)) * 20_000  # more than sockets hold


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answers a number n with a message of n parts, in the midst of others."""
    assert PARTS in scope["extensions"]
    assert "websocket.http.response" in scope["extensions"]
    await receive()
    await send({"type": "websocket.accept"})
    with contextlib.suppress(OSError):
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": "before"})
            await send({"type": "websocket.send", "parts": [LARGE] * int(message["text"])})
            await send({"type": "websocket.send", "bytes": b"after"})


def patient(port: int, max_size: int | None = None) -> connect:
    """A client that does not leave because somebody is slow."""
    return connect(f"ws://127.0.0.1:{port}/", max_size=max_size, open_timeout=PATIENCE_S, ping_interval=None)


@pytest.fixture
async def client() -> AsyncIterator[ClientConnection]:
    config = uvicorn.Config(
        application,
        ws=StreamProtocol,
        ws_per_message_deflate=False,
        ws_ping_interval=None,
        lifespan="off",
        log_config=None,
    )
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        task = asyncio.create_task(server.serve([listener]))
        await until(lambda: server.started)
        async with patient(listener.getsockname()[1], frames.MAX_MESSAGE_BYTES) as found:
            yield found
        server.should_exit = True
        await task


async def test_parts_are_one_message_between_others(client: ClientConnection) -> None:
    for count in (1, 2, 5):
        await client.send(str(count))
        assert await client.recv() == "before"
        assert await client.recv() == LARGE * count
        assert await client.recv() == b"after"


async def test_who_leaves_in_the_midst_of_a_message_harms_nobody(client: ClientConnection) -> None:
    await client.send("8")
    await client.recv()
    client.transport.abort()
    async with patient(client.remote_address[1]) as other:
        await other.send("1")
        await other.recv()
        assert await other.recv() == LARGE
