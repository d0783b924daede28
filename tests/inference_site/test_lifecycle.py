"""Start of what runs behind the views, under a server without a lifespan: with its first request."""

import asyncio

import pytest

from inference_site import lifecycle
from inference_site.lifecycle import Service
from tests.support.waiting import until


class Slow(Service):
    """A service whose start takes until it is let, or fails then."""

    def __init__(self, error: Exception | None = None) -> None:
        self.starts = 0
        self.may = asyncio.Event()
        self._error = error

    async def start(self) -> None:
        self.starts += 1
        await self.may.wait()
        if self._error is not None:
            raise self._error


@pytest.fixture(autouse=True)
def nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "_service", None)
    monkeypatch.setattr(lifecycle, "_starting", None)


async def test_whoever_comes_while_it_starts_waits_for_it() -> None:
    service = Slow()
    lifecycle.use(service)
    first, second = (asyncio.create_task(lifecycle.ensure_started()) for _ in range(2))
    await until(lambda: service.starts)
    assert not first.done()
    assert not second.done()
    service.may.set()
    await asyncio.gather(first, second)
    assert service.starts == 1


async def test_a_first_client_that_leaves_does_not_end_the_start() -> None:
    service = Slow()
    lifecycle.use(service)
    first = asyncio.create_task(lifecycle.ensure_started())
    await until(lambda: service.starts)
    first.cancel()
    second = asyncio.create_task(lifecycle.ensure_started())
    service.may.set()
    await second
    assert (service.starts, first.cancelled()) == (1, True)


async def test_nobody_is_served_by_what_could_not_be_started() -> None:
    service = Slow(RuntimeError("no port"))
    lifecycle.use(service)
    first = asyncio.create_task(lifecycle.ensure_started())
    await until(lambda: service.starts)
    service.may.set()
    for each in (first, lifecycle.ensure_started(), lifecycle.ensure_started()):
        with pytest.raises(RuntimeError, match="no port"):
            await each
