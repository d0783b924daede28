"""Waiting for what comes about by itself."""

import asyncio
from collections.abc import Callable

# The longest wait for what comes about by itself: it comes much sooner, but a busy machine may take its time.
PATIENCE_S = 90.0


async def until(condition: Callable[[], object], within_s: float = PATIENCE_S) -> None:
    """Waits on a loop until it holds. Raises TimeoutError."""
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.002)
