"""How the only model becomes the setting of which model a plain /infer asks, and a worker gets the name it says."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.db import OperationalError

from gateway_app import gateway as gateway_module
from gateway_app.adoption import ABSENT_S, AGAIN_S, NOTE, Adoption, record_default
from gateway_app.config import load_snapshot
from gateway_app.gateway import Gateway
from gateway_app.models import Revision, Tuning


def make(fails: bool = False) -> tuple[Adoption, list[float], list[str]]:
    """With a clock to be set, and what has been recorded."""
    now, recorded = [100.0], list[str]()

    def record(name: str) -> None:
        recorded.append(name)
        if fails:
            raise OSError("no database here")

    return Adoption(lambda: now[0], record), now, recorded


async def test_it_is_recorded_once_all_workers_have_been_heard() -> None:
    adoption, _, recorded = make()
    await adoption.look("", all_heard=True)
    await adoption.look("m", all_heard=False)
    assert recorded == []
    await adoption.look("m", all_heard=True)
    await adoption.look("m", all_heard=True)  # the gateway has not read it yet
    assert recorded == ["m"]


async def test_a_worker_that_stays_away_is_not_waited_for() -> None:
    adoption, now, recorded = make()
    await adoption.look("m", all_heard=False)
    now[0] += ABSENT_S
    await adoption.look("m", all_heard=False)
    assert recorded == ["m"]


async def test_a_database_that_is_away_is_asked_again_later(caplog: pytest.LogCaptureFixture) -> None:
    adoption, now, recorded = make(fails=True)
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            await adoption.look("m", all_heard=True)
    assert (len(recorded), caplog.text.count("no database here")) == (1, 1)
    now[0] += AGAIN_S
    await adoption.look("m", all_heard=True)
    assert len(recorded) == 2


async def test_a_default_that_an_operator_has_set_stays(database: Path) -> None:
    await asyncio.to_thread(record_default, "main")
    revision = await asyncio.to_thread(Revision.objects.latest, "id")
    assert revision.summary.startswith(f"{NOTE}: ")
    assert (await asyncio.to_thread(load_snapshot)).node.default_model == "main"
    await asyncio.to_thread(record_default, "other")
    assert (await asyncio.to_thread(Tuning.objects.get)).default_model == "main"
    assert await asyncio.to_thread(Revision.objects.count) == revision.pk


# A worker's name, told at its handshake.


@pytest.mark.parametrize("trouble", ["locked", "not written yet", "gone"])
async def test_a_name_that_cannot_be_written_now_is_written_later(
    monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    gateway, tries, woken = Gateway(""), [], []
    link: Any = SimpleNamespace(name="127.0.0.1-8001", host="127.0.0.1", port=8001, address="127.0.0.1:8001")
    gateway.links[link.name] = link

    def adopt(host: str, port: int, node_id: str) -> bool:
        tries.append((host, port, node_id))
        if trouble == "gone":
            gateway.links.clear()
        if trouble != "not written yet" and len(tries) < 3:
            raise OperationalError("database is locked")
        return True

    monkeypatch.setattr(gateway_module, "adopt_name", adopt)
    monkeypatch.setattr(gateway_module, "ADOPT_AGAIN_S", 0.001)
    monkeypatch.setattr(gateway.watcher, "wake", lambda: woken.append(True))
    if trouble == "not written yet":
        gateway.watcher.given = [(None, "127.0.0.1", 8001)]
    adopting = asyncio.create_task(gateway._adopt(link, "worker_1"))
    if trouble == "not written yet":
        await asyncio.sleep(0.01)
        assert not tries
        gateway.watcher.given = ()
    await adopting
    expected = {"locked": (3, [True]), "not written yet": (1, [True]), "gone": (1, [])}[trouble]
    assert (len(tries), woken) == expected
    assert set(tries) == {("127.0.0.1", 8001, "worker_1")}
