"""A gateway's end of a worker's stream, as a test plays it."""

import asyncio
import contextlib
import json
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np

from inference_site.lib import frames, handshake
from inference_site.lib.frames import Ask, Tell
from inference_site.streaming import PARTS
from tests.support.waiting import until
from tests.worker_app.echo_engine import echo
from worker_app.model import Model
from worker_app.node import Node
from worker_app.stream import Stream

CHALLENGE = "c" * 32
Reply = tuple[int, int, int, int, int, bytes, int]


class GatewaySide:
    """The gateway's end: what the worker sent, as messages and as frames."""

    def __init__(self, node: Node, token: str, *, bulk: bool = False, parts: bool = False) -> None:
        self.incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.sent: list[dict[str, Any]] = []
        self.incoming.put_nowait({"type": "websocket.connect"})
        scope: dict[str, Any] = {
            "type": "websocket",
            "path": "/stream",
            "query_string": b"bulk" if bulk else b"",
            "headers": [(handshake.CHALLENGE_HEADER.encode(), CHALLENGE.encode())],
            "extensions": {PARTS: {}} if parts else None,
        }
        self.node = node
        self.stream = Stream(node, token, self.send, bulk=bulk, max_ask_bytes=123)
        self.task = asyncio.create_task(self.stream.serve(scope, self.incoming.get))

    async def send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)

    def give(self, data: bytes) -> None:
        self.incoming.put_nowait({"type": "websocket.receive", "bytes": data})

    @property
    def messages(self) -> list[bytes]:
        return [
            message["bytes"] if "bytes" in message else b"".join(message["parts"])
            for message in self.sent
            if message["type"] == "websocket.send"
        ]

    @property
    def replies(self) -> list[Reply]:
        return [reply for message in self.messages for reply in frames.tells(message)]

    def of(self, *kinds: Tell) -> list[Reply]:
        return [reply for reply in self.replies if reply[0] in kinds]

    @property
    def close_code(self) -> int | None:
        return next((message["code"] for message in self.sent if message["type"] == "websocket.close"), None)

    async def until(self, condition: Callable[[], object]) -> None:
        """Once the worker has sent what makes it hold."""
        await until(condition)

    async def hello(self) -> handshake.Hello:
        await self.until(lambda: self.of(Tell.HELLO))
        return msgspec.json.decode(self.of(Tell.HELLO)[0][5], type=handshake.Hello)

    async def proof(self, token: str) -> bytes:
        return frames.ask(Ask.PROOF, 0, handshake.gateway_proof(token, (await self.hello()).challenge).encode())

    async def end(self) -> None:
        self.incoming.put_nowait({"type": "websocket.disconnect", "code": 1000})
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await self.task


Connect = Callable[..., GatewaySide]  # connect(node, token, …)


def infer(ident: int, *values: float, left_ms: int = 0, model: int = 1) -> bytes:
    """A request for a sample."""
    return frames.ask(Ask.INFER, ident, json.dumps(values).encode(), left_ms, model)


def the_model(node: Node) -> Model:
    """The first one."""
    return node.models[1]


def answer_to(*values: float) -> bytes:
    """What an echoing model answers."""
    return echo(np.array(values, "f4").tobytes())


async def proven(connect: Connect, node: Node, **more: Any) -> GatewaySide:
    """A connection of a gateway that has shown that it holds the token."""
    side = connect(node, **more)
    side.give(await side.proof("secret"))
    await side.until(lambda: node.gateways)
    return side
