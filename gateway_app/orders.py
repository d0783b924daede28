"""Loading and unloading models on every worker: ordered in the database, followed until the workers have settled."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from django.db import Error as DatabaseUnavailable
from django.db import close_old_connections

from gateway_app import modelcontrol
from gateway_app.models import ModelRecord, recorded
from inference_site.lib.catalog import ModelInfo, State
from inference_site.lib.errors import ApiError

if TYPE_CHECKING:
    from gateway_app.gateway import Gateway

logger = logging.getLogger(__name__)

# Large models on slow disks take minutes; who asked is told to look later then.
WAIT_S = 120.0
LOOK_S = 0.02
# So long is waited for a worker to come when there is none.
ALONE_S = 10.0
NOTE = "repository API"


class Orders:
    """Carries out a gateway's `load` and `unload`. Who is away is told on coming back."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def load(self, name: str) -> None:
        """Returns once the model is served in what is newest of it; raises ApiError with the workers' reasons."""
        is_new, revision = await asyncio.to_thread(_order_load, name)
        await self._settled(name, revision)
        catalog = self._gateway.lineup.catalog
        said = catalog.said(name)
        # A version of no number: the worker has found no file.
        if not any(info.version for found in said.values() for info in found):
            if is_new:
                await asyncio.to_thread(_take_back, name)
            reasons = catalog.reasons(name) or "none has a MODEL_REPOSITORY with it"
            raise ApiError(404, "unknown_model", f"no worker has found a model {name!r} ({reasons})")
        failed = {worker: why for worker, found in sorted(said.items()) if (why := _failure(found))}
        if failed:
            reasons = "; ".join(f"{worker}: {why}" for worker, why in failed.items())
            rest = "what was loaded before serves on" if name in catalog.newest else "nothing of it is served"
            raise ApiError(400, "load_failed", f"the model {name!r} could not be loaded ({reasons}); {rest}")

    async def unload(self, name: str) -> None:
        """Returns once the model is not found any more; its workers let go of it when its last requests have ended."""
        known = any(info.name == name and info.version for info in self._gateway.models())
        # What was ordered of it may be all that is known: its files are gone, or have not come yet.
        if not known and not await asyncio.to_thread(_is_ordered, name):
            raise ApiError(404, "unknown_model", f"there is no model {name!r} to unload")
        await self._settled(name, await asyncio.to_thread(modelcontrol.order_unload, name, NOTE))

    async def _settled(self, name: str, revision: int) -> None:
        """Waits until every connected worker has done what this revision says of the model."""
        gateway, until = self._gateway, time.monotonic() + WAIT_S
        gateway.watcher.wake()
        alone_until = time.monotonic() + ALONE_S
        while gateway.snapshot.revision < revision or self._waits_for(name, revision) or not self._connected:
            if self._connected:
                alone_until = time.monotonic() + ALONE_S
            elif time.monotonic() > alone_until:
                message = f"{name!r} was ordered, but no worker is connected; they do it when they come"
                raise ApiError(503, "model_not_ready", message, retry_after_s=10)
            if time.monotonic() > until:
                slow = ", ".join(self._waits_for(name, revision)) or "this gateway"
                message = f"{slow} has not done so within {WAIT_S:.0f} s; v2/repository/index will show when"
                raise ApiError(503, "model_not_ready", f"{name!r} was ordered, but {message}", retry_after_s=10)
            await asyncio.sleep(LOOK_S)

    @property
    def _connected(self) -> bool:
        return any(link.ready for link in self._gateway.links.values())

    def _waits_for(self, name: str, revision: int) -> list[str]:
        links, said = self._gateway.links, self._gateway.lineup.catalog.said(name)
        return [
            worker
            for worker, link in sorted(links.items())
            if link.up
            and (
                not link.ready
                or link.revision < revision
                or any(info.state is State.LOADING for info in said.get(worker, ()))
            )
        ]


def _order_load(name: str) -> tuple[bool, int]:
    """Whether nothing was known of the model in the database, and the revision that orders it. For a thread."""
    is_new = not _is_ordered(name)
    return is_new, modelcontrol.order_load(name, NOTE)


def _is_ordered(name: str) -> bool:
    """Whether the database has a row of it; yes while that can't be told: the next order says so. For a thread."""
    try:
        close_old_connections()
        return ModelRecord.objects.filter(name=name).exists()
    except DatabaseUnavailable:
        return True


def _take_back(name: str) -> None:
    """Nothing is kept of an order for what is not there. For a thread."""
    try:
        close_old_connections()
        with recorded(note=f"{NOTE}: there is no such model"):
            ModelRecord.objects.filter(name=name).delete()
    except DatabaseUnavailable as error:
        logger.warning("the order to load %r, which no worker has, could not be taken back: %s", name, error)
    finally:
        close_old_connections()


def _failure(infos: list[ModelInfo]) -> str:
    """Why a worker has not loaded what it was to load; "" if it has."""
    return "; ".join(
        f"version {info.version}: {info.reason or 'no reason given'}" if info.version else info.reason
        for info in infos
        if info.state is State.UNAVAILABLE
    )
