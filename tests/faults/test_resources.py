"""Rows 21 and 27: a database that is away, a full disk, and no descriptors left."""

import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from tests.faults.figures import Figures, scaled
from tests.faults.measures import limited
from tests.faults.sickbay import HALF, Sickbay
from tests.faults.test_clients import connected
from tests.support.load import Case, Load
from tests.support.openload import OpenLoad
from tests.support.processes import wait_until

Fresh = Callable[[int], list[Case]]


@contextmanager
def without_database(fleet: Sickbay) -> Iterator[None]:
    """Its files are elsewhere, and something that is no database is in their place."""
    file = Path(fleet.env["DATABASE_URL"].removeprefix("sqlite:///"))
    away = file.with_name("away")
    away.mkdir()
    moved = [each.rename(away / each.name) for each in file.parent.glob(f"{file.name}*")]
    file.mkdir()
    try:
        yield
    finally:
        file.rmdir()
        for each in moved:
            each.rename(file.parent / each.name)
        away.rmdir()


def config_error(fleet: Sickbay) -> str:
    found: str = fleet.stats()["gateway"]["config_error"]
    return found


@pytest.mark.row(21)
def test_without_a_database_the_last_configuration_serves(fleet: Sickbay, fresh: Fresh, figures: Figures) -> None:
    fleet.tune(batch_size=31)
    began = time.monotonic()
    answers = 0
    try:
        with without_database(fleet):
            with OpenLoad(fleet.gateway_url, fresh(20_000), rate=HALF) as load:
                wait_until("the gateway says so", lambda: "the database does not answer" in config_error(fleet))
                time.sleep(scaled(1, 600))
                load.wait_for(100)
            load.report.assert_no_failure()
            answers += len(load.report.answers)
            fleet.kill("gateway")
            fleet.start("gateway")  # which has nothing but the last good file and its arguments
            fleet.wait_until_connected()
            with OpenLoad(fleet.gateway_url, fresh(20_000), rate=HALF) as load:
                load.wait_for(200)
                assert "the database does not answer" in config_error(fleet)
                assert all(fleet.health(name)["settings"]["batch_size"] == 31 for name in fleet.names)
            load.report.assert_no_failure()
            answers += len(load.report.answers)
            away_s = time.monotonic() - began
        wait_until("it goes on by itself", lambda: not config_error(fleet), 30.0)
    finally:
        fleet.tune(batch_size=32)
    assert all(fleet.health(name)["settings"]["batch_size"] == 32 for name in fleet.names)
    figures.say(f"away for {away_s:.0f} s", f"0 failed of {answers:,}", "a gateway started meanwhile served too")


@pytest.mark.row(27)
def test_a_full_disk_stops_no_request(fleet: Sickbay, fresh: Fresh, figures: Figures) -> None:
    pids = [fleet.pid(name) for name in ("worker_1", "worker_3", "gateway")]
    with OpenLoad(fleet.gateway_url, fresh(20_000), rate=HALF) as load:
        load.wait_for(100)
        with limited(pids, resource.RLIMIT_FSIZE, 0):  # no file takes another byte
            fleet.kill("worker_2")  # an event, which can't be written
            fleet.start("worker_2")
            load.wait_for_node("worker_2", 30.0)
            page = requests.get(f"{fleet.gateway_url}/admin/login/", timeout=20)
            assert page.status_code == 200
            load.wait_for(200)
        load.wait_for(100)
    load.report.assert_no_failure()
    fleet.tune(batch_size=31)
    fleet.tune(batch_size=32)
    figures.say(f"disk full: 0 failed of {len(load.report.answers):,}")


@pytest.mark.row(27)
def test_without_descriptors_who_is_there_is_answered_and_who_comes_waits(
    fleet: Sickbay, fresh: Fresh, figures: Figures
) -> None:
    cases = fresh(20_000)
    with Load(fleet.gateway_url, cases, connections=20, rate=HALF) as load:
        load.wait_for(100)
        with limited([fleet.pid("gateway")], resource.RLIMIT_NOFILE, 256), connected(fleet, 400) as hogs:
            load.wait_for(300)
            late = hogs[-1]
            late.sendall(cases[0].request("late", "localhost"))
            late.settimeout(0.5)
            with pytest.raises(TimeoutError):  # it has connected, and nobody has taken it yet
                late.recv(4096)
            for each in hogs[:-1]:
                each.close()
            late.settimeout(20.0)
            assert late.recv(4096).startswith(b"HTTP/1.1 200 ")
        load.wait_for(100)
    load.report.assert_no_failure()
    fleet.wait_until_connected()
    figures.say(f"256 descriptors: 0 failed of {len(load.report.answers):,}, new clients wait")
