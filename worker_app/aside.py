"""Reads large asks in a thread of their own: on the loop they would hold up all else that this process answers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from inference_site.lib.asks import V2
from worker_app.job import Job, Waiting

logger = logging.getLogger(__name__)

# Above this an ask is not read on the loop: up to a microsecond a byte for strings, and half a millisecond for the
# digest of an image. A thread costs some 0.1 ms.
LARGE_BYTES = 64 * 1024
# A longer head is not looked at: what may be in it takes time to read.
_HEAD_BYTES = 1024
_HEAD_BEGINS = 5  # after the first byte and the length
# What a head says of tensors that are not just bytes of numbers: they are in the JSON, are strings, or whatever else is
# written so that it is not seen here.
_SLOW = (b'"data"', b"BYTES", b"\\")

T = TypeVar("T")


def reads_at_once(ask: bytes) -> bool:
    """Whether reading takes the same short time however large the ask is: of V2, and all of it binary numbers."""
    if ask[0] != V2:
        return False
    length = int.from_bytes(ask[1:_HEAD_BEGINS], "little")
    if length > _HEAD_BYTES:
        return False
    head = ask[_HEAD_BEGINS : _HEAD_BEGINS + length]
    return not any(word in head for word in _SLOW)


class Unread(Waiting):
    """A large ask, and who waits for it. Once it is read it has become a job, its own or one that it has joined."""

    __slots__ = ("job", "payload", "read_at", "routing", "watched")

    def __init__(self, payload: bytes, routing: int | None, watched: int | None) -> None:
        super().__init__()
        self.payload = payload
        self.routing = routing  # its routing key, if that is known
        self.watched = watched
        self.job: Job | None = None
        self.read_at = 0.0  # when it became one

    def become(self, job: Job) -> None:
        """It is this one from now on, or a part of it."""
        job.take_over(self)
        self.job, self.read_at = job, time.monotonic()


class Aside:
    """Those that wait to be read, one by one in the order in which they came. Not safe for concurrent access.

    `attend` does it, and leaves to the thread, by `call`, what takes long.
    """

    def __init__(self, name: str, attend: Callable[[Unread], Coroutine[Any, Any, None]]) -> None:
        self._attend = attend
        self._queue: deque[Unread] = deque()
        self._now: Unread | None = None
        self._task: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"{name}-reader")

    def __len__(self) -> int:
        return len(self._queue) if self._now is None else len(self._queue) + 1

    def put(self, unread: Unread) -> None:
        """Queues one; before all others if it is watched."""
        if unread.watched is None:
            self._queue.append(unread)
        else:
            self._queue.appendleft(unread)
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._attend_all(), name="reader of large asks")

    def discard(self, unread: Unread) -> None:
        """Takes one out of the queue, if it is still there."""
        with contextlib.suppress(ValueError):
            self._queue.remove(unread)

    async def call(self, work: Callable[..., T], *args: Any) -> T:
        """Does it in the thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *args)

    def close(self) -> None:
        """Reads nothing more."""
        if self._task is not None:
            self._task.cancel()
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _attend_all(self) -> None:
        while self._queue:
            self._now = self._queue.popleft()
            try:
                await self._attend(self._now)
            except Exception:  # a bug of ours must not keep the others from being read
                logger.exception("a large ask could not be read")
            finally:
                self._now = None
