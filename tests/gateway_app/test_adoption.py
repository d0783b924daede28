"""How the only model becomes the setting of which model a plain /infer asks."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from gateway_app.adoption import ABSENT_S, AGAIN_S, NOTE, Adoption, record_default
from gateway_app.config import load_snapshot
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
