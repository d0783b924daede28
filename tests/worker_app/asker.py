"""Somebody who asks a model and keeps each answer under the token it came with."""

from __future__ import annotations

import asyncio

import orjson

from inference_site.lib.frames import Cache, Tell
from tests.support.waiting import PATIENCE_S, until
from worker_app.job import Waiting
from worker_app.model import Model
from worker_app.node import Node


class Asker:
    """Fails the test on a second answer to the same."""

    def __init__(self, asked: Model | Node) -> None:
        self.model = asked.find(None, None) if isinstance(asked, Node) else asked
        self.answers: dict[object, tuple[Tell, Cache, int, bytes]] = {}
        self.left: set[object] = set()
        self.times_us: dict[object, int] = {}
        self.asked = 0
        self._all = asyncio.Event()

    def ask(self, values: object, token: object = None, *, left_ms: int = 0) -> object:
        token = self.asked if token is None else token
        self.job(values, token, left_ms=left_ms)
        return token

    def job(self, values: object, token: object, *, left_ms: int = 0) -> Waiting | None:
        self.asked += 1
        text = values if isinstance(values, bytes) else orjson.dumps(values)
        return self.model.ask(text, token, self.reply, left_ms)

    def reply(self, token: object, kind: Tell, cache: Cache, status: int, payload: bytes, time_us: int) -> None:
        assert token not in self.answers, "answered twice"
        assert token not in self.left, "answered after it has left"
        assert time_us >= 0
        self.answers[token] = (kind, cache, status, payload)
        self.times_us[token] = time_us
        self._all.set()

    async def answer(self, values: object) -> tuple[Tell, Cache, int, bytes]:
        token = self.ask(values)
        await self.everything()
        return self.answers[token]

    def check(self, token: object) -> None:
        self.asked += 1
        self.model.check(token, self.reply)

    def leave(self, job: Waiting | None, token: object) -> None:
        """Does not wait for the answer to a request any more."""
        assert job is not None
        if token not in self.answers:
            self.left.add(token)
        self.model.cancel(job, token, self.reply)

    async def everything(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while len(self.answers) + len(self.left) < self.asked:
                self._all.clear()
                await self._all.wait()
        if self.left:  # what they have left may still run
            await until(lambda: self.model.in_flight == 0)
        assert self.model.in_flight == 0
