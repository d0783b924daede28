"""Large asks: read in a thread, one by one, and then answered as all others are."""

from __future__ import annotations

import asyncio
import math
import time

from inference_site.lib import asks
from inference_site.lib.frames import Cache, Tell
from worker_app.answers import Answers
from worker_app.aside import Unread, reads_at_once
from worker_app.core.keys import Key, alias_by_key, alias_of
from worker_app.job import Job, Reply, Token, hand_over


class LargeAsks(Answers):
    """What `ask` does in one go, in steps between which others are answered. Not safe for concurrent access."""

    def _ask_aside(self, unread: Unread, token: Token, reply: Reply, began: float, left_ms: int) -> Unread | None:
        """Has a large ask read in a thread; `_attend` goes on with it."""
        if unread.watched is None and len(self.aside) >= self.batcher.limit:
            self._refuse(token, reply)
            return None
        unread.join(token, reply, began, left_ms)
        self.aside.put(unread)
        return unread

    async def _attend(self, unread: Unread) -> None:
        try:
            if self._awaited(unread):
                await self._read_aside(unread)
        except Exception as error:
            for waiter in unread.waiters:
                self._unreadable(waiter, error)
        finally:
            asyncio.get_running_loop().call_soon(self._rest)

    async def _read_aside(self, unread: Unread) -> None:
        """Goes on as `ask` does, with all that takes long in the thread."""
        cached, key, alias, call = self.cached, None, None, self.aside.call
        payload = unread.payload
        if cached and not reads_at_once(payload):
            alias = await call(alias_of, payload, self.seed)
            key = self.aliases.get(alias)
            if key is not None and self._settled(unread, key):
                return
        if self.batcher.full and unread.watched is None:  # so there is no point in reading it
            self._refuse_all(unread)
            return
        sample = await call(self.engine.read, payload)
        if cached:
            if key is None:
                key = await call(lambda: sample.key)
                if alias is None:
                    routing = unread.routing or await call(asks.key_of, payload, self.seed)
                    alias = await call(alias_by_key, routing, key)
                self._note_alias(alias, key)
            if self._settled(unread, key):  # by now, even if it was not when its key was found
                return
            for waiter in unread.waiters:
                self.tally.miss(waiter[2])
        elif not self._awaited(unread):
            return
        job = Job(sample, unread.watched)
        left_ms = 0 if unread.soonest == math.inf else max(1, int((unread.soonest - time.monotonic()) * 1000))
        if not self._queue(job, left_ms, self.batcher.full):  # those that are not read yet came after it
            self._refuse_all(unread)
            return
        unread.become(job)
        if key is not None:
            self._flying[key] = job

    def _settled(self, unread: Unread, key: Key) -> bool:
        """Whether nothing must be run for an ask, now that its key is known: nobody waits, it is cached or joined."""
        if not self._awaited(unread):
            return True
        output = self.results.get(key)
        if output is not None:
            for waiter in unread.waiters:
                self.tally.hit(waiter[2])
                hand_over(waiter, Tell.RESULT, Cache.HIT, 200, output)
            return True
        job = self._flying.get(key)
        if job is None:
            return False
        for waiter in unread.waiters:
            self.tally.miss(waiter[2])
        self.tally.joined += len(unread.waiters)
        unread.become(job)
        return True

    def _refuse_all(self, unread: Unread) -> None:
        for token, reply, *_ in unread.waiters:
            self._refuse(token, reply)
