"""What tests of the worker share."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import pytest

from worker_app.consumers import run_batches
from worker_app.node import Node


@pytest.fixture
async def start() -> AsyncIterator[Callable[[Node], Node]]:
    """start(node) runs the node's batches until the test ends."""
    tasks: list[asyncio.Task[None]] = []
    nodes: list[Node] = []

    def begin(node: Node) -> Node:
        nodes.append(node)
        tasks.append(asyncio.create_task(run_batches(node)))
        return node

    yield begin
    for task in tasks:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    for node in nodes:
        node.close()
