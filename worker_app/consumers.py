"""The background consumers that run the batches: one for each session of each model."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from channels.consumer import AsyncConsumer, get_handler_name

from worker_app.model import Model

logger = logging.getLogger(__name__)


class BatchConsumer(AsyncConsumer):
    """A Channels consumer fed in this process: one message wakes it for all that waits, never one per request."""

    async def dispatch(self, message: dict[str, Any]) -> None:
        """Calls the handler alone: Channels' own version hops to a thread to tidy databases, and a worker has none."""
        await getattr(self, get_handler_name(message))(message)

    async def batch_ready(self, message: dict[str, Any]) -> None:
        """Something waits for the engine."""
        await self.scope["model"].run_batches(self.scope["slot"])


async def run_batches(model: Model, slot: int = 0) -> None:
    """Runs the consumer on the model's queue until it is cancelled. A failure is logged and it goes on."""

    async def receive() -> dict[str, str]:
        await model.work()
        return {"type": "batch.ready"}

    async def send(message: dict[str, Any]) -> None:
        raise TypeError(f"the batch consumer has nobody to send {message['type']!r} to")

    application = BatchConsumer.as_asgi()
    scope = {"type": "channel", "channel": f"batches-{model.number}", "model": model, "slot": slot}
    while True:
        try:
            await application(scope, receive, send)
        except Exception:
            logger.exception("a batch consumer failed; it starts again")
            await asyncio.sleep(0.1)
            model.wake()  # what it was woken for still waits
