"""Loading and unloading over the API: it returns once the workers have done it, and says what they could not."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gateway_app import modelcontrol
from gateway_app import orders as orders_module
from gateway_app.models import ModelRecord
from inference_site.lib.catalog import ModelInfo, ModelSettings
from inference_site.lib.catalog import State as ModelState
from inference_site.lib.errors import ApiError
from tests.gateway_app.lineup import NAMES, Cluster
from tests.gateway_app.scripted import ready
from tests.support.waiting import until


@pytest.fixture
def orders(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """What has been ordered; each is a revision that the gateway is shown."""
    given: list[tuple[str, bool]] = []
    loop = asyncio.get_event_loop_policy().get_event_loop()

    def order(name: str, loaded: bool) -> int:
        def show() -> None:
            cluster.configure(models=wish)
            given.append((name, loaded))

        wish = {name: ModelSettings(loaded=loaded, order=len(given) + 1)}
        revision = cluster.snapshot.revision + 1
        loop.call_soon_threadsafe(show)
        return revision

    monkeypatch.setattr(orders_module, "_order_load", lambda name: (True, order(name, True)))
    monkeypatch.setattr(orders_module, "_take_back", lambda name: given.append((name, False)))
    monkeypatch.setattr(orders_module, "_is_ordered", lambda name: name == "ordered")
    monkeypatch.setattr(modelcontrol, "order_unload", lambda name, note="": order(name, False))
    return given


async def settle(cluster: Cluster, *models: ModelInfo, only: str = "") -> None:
    """Workers answer the newest settings with these models."""
    for name, worker in cluster.workers.items():
        await until(lambda: worker.revision == cluster.snapshot.revision)  # noqa: B023
        if not only or name == only:
            await worker.tell_models(*models)


async def test_loading_returns_once_all_workers_serve_it(cluster: Cluster, orders: list[tuple[str, bool]]) -> None:
    await cluster.start()
    for worker in cluster.workers.values():
        worker.says_models = False
    loading = asyncio.create_task(cluster.gateway.load("echo"))
    await until(lambda: orders)
    waits = ModelInfo(number=0, name="echo", version="2", state=ModelState.LOADING)
    await settle(cluster, ready(1), waits)
    await asyncio.sleep(0.1)
    assert not loading.done()
    for name in NAMES:
        assert not loading.done()
        await settle(cluster, ready(1, current=False), ready(2, version="2"), only=name)
    await loading
    assert orders == [("echo", True)]
    assert await cluster.answer() == ["echo", "2", "0"]


async def test_loading_what_a_worker_cannot_load_says_so_and_the_old_one_serves_on(
    cluster: Cluster, orders: list[tuple[str, bool]]
) -> None:
    await cluster.start()
    for worker in cluster.workers.values():
        worker.says_models = False
    loading = asyncio.create_task(cluster.gateway.load("echo"))
    await until(lambda: orders)
    broken = ModelInfo(number=0, name="echo", version="2", state=ModelState.UNAVAILABLE, reason="it is truncated")
    await settle(cluster, ready(1), broken)
    with pytest.raises(ApiError, match="it is truncated") as refusal:
        await loading
    assert (refusal.value.status, refusal.value.code) == (400, "load_failed")
    assert await cluster.answer() == ["echo", "1", "0"]


async def test_loading_what_no_worker_has_found_is_refused(cluster: Cluster, orders: list[tuple[str, bool]]) -> None:
    await cluster.start()
    with pytest.raises(ApiError, match="no worker has found a model 'nothing'") as refusal:
        await cluster.gateway.load("nothing")
    assert (refusal.value.status, refusal.value.code) == (404, "unknown_model")
    assert orders == [("nothing", True), ("nothing", False)]  # nothing is left of it


async def test_loading_while_no_worker_is_there_is_no_success_and_nothing_older_is_answered_from_the_cache(
    cluster: Cluster, orders: list[tuple[str, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orders_module, "ALONE_S", 0.2)
    await cluster.start()
    for _ in range(8):
        await cluster.answer()
    assert cluster.gateway.lineup.totals().hot_entries == 1
    for server in cluster.servers.values():
        await server.die()
    await until(lambda: not any(link.ready for link in cluster.gateway.links.values()))
    with pytest.raises(ApiError, match="no worker is connected") as refusal:
        await cluster.gateway.load("echo")
    assert (refusal.value.status, refusal.value.code) == (503, "model_not_ready")
    assert (await cluster.ask().error()).code == "no_worker_available"


async def test_what_no_worker_has_found_on_disk_is_unknown(cluster: Cluster) -> None:
    missing = ModelInfo(number=0, name="typo", version="", state=ModelState.UNAVAILABLE, reason="there is no /a/path")
    await cluster.start(ready(1), missing)
    with pytest.raises(ApiError) as refusal:
        cluster.gateway.find("typo", None)
    assert (refusal.value.status, refusal.value.code) == (404, "unknown_model")
    assert "/a/path" not in refusal.value.message


async def test_only_what_is_there_or_was_ordered_is_unloaded(cluster: Cluster, orders: list[tuple[str, bool]]) -> None:
    """A load of what is not there was taken back, and its workers may not know that yet."""
    told = [
        ModelInfo(number=0, name=name, version="", state=ModelState.UNAVAILABLE, reason="there is none")
        for name in ("typo", "ordered")
    ]
    await cluster.start(ready(1), *told)
    for name in ("typo", "never"):
        with pytest.raises(ApiError) as refusal:
            await cluster.gateway.unload(name)
        assert (refusal.value.status, refusal.value.code) == (404, "unknown_model")
    assert not orders
    unloading = asyncio.create_task(cluster.gateway.unload("ordered"))
    await until(lambda: orders == [("ordered", False)])
    await settle(cluster, ready(1))
    await unloading


def test_a_model_without_a_name_is_none() -> None:
    for order in (modelcontrol.order_load, modelcontrol.order_unload):
        with pytest.raises(ApiError, match="name is empty") as refusal:
            order("")
        assert (refusal.value.status, refusal.value.code) == (400, "invalid_model")


async def test_an_order_is_a_row_that_goes_again_if_there_is_no_such_model(
    database: Path,
) -> None:
    is_new, revision = await asyncio.to_thread(orders_module._order_load, "typo")
    assert is_new
    again, later = await asyncio.to_thread(orders_module._order_load, "typo")
    assert (again, later > revision) == (False, True)
    await asyncio.to_thread(orders_module._take_back, "typo")
    assert not await asyncio.to_thread(ModelRecord.objects.filter(name="typo").exists)
