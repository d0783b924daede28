"""Rows 21 and 27: a database that is away, a full disk, and no descriptors left."""

import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from tests.faults.figures import Figures, scaled
from tests.faults.measures import limited, open_files
from tests.faults.sickbay import N_IN, USUAL, Sickbay, connected
from tests.support.load import Case, Load
from tests.support.openload import OpenLoad
from tests.support.processes import wait_until
from tests.support.waiting import PATIENCE_S

Fresh = Callable[[int], list[Case]]
CASES = 20_000


@contextmanager
def without_database(fleet: Sickbay) -> Iterator[None]:
    """Its file is elsewhere, and something that is no database is in its place: at no moment is there nothing, for who
    looks then makes a new database."""
    file = Path(fleet.env["DATABASE_URL"].removeprefix("sqlite:///"))
    away, other = file.with_name("away"), file.with_name("other")
    away.hardlink_to(file)
    other.symlink_to(file.parent, target_is_directory=True)
    other.replace(file)
    try:
        yield
    finally:
        away.replace(file)


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
            with OpenLoad(fleet.gateway_url, fresh(CASES), rate=USUAL) as load:
                wait_until("the gateway says so", lambda: "the database does not answer" in config_error(fleet))
                time.sleep(scaled(0, 600))
                load.wait_for(100)
            load.report.assert_no_failure()
            answers += len(load.report.answers)
            fleet.kill("gateway")
            fleet.start("gateway")  # which has nothing but the last good file and its arguments
            fleet.wait_until_connected()
            with OpenLoad(fleet.gateway_url, fresh(CASES), rate=USUAL) as load:
                load.wait_for(100)
                assert "the database does not answer" in config_error(fleet)
                assert all(fleet.health(name)["settings"]["batch_size"] == 31 for name in fleet.names)
            load.report.assert_no_failure()
            answers += len(load.report.answers)
            away_s = time.monotonic() - began
        wait_until("it goes on by itself", lambda: not config_error(fleet))
    finally:
        fleet.tune(batch_size=32)
    assert all(fleet.health(name)["settings"]["batch_size"] == 32 for name in fleet.names)
    figures.say(f"away for {away_s:.0f} s", f"0 failed of {answers:,}", "a gateway started meanwhile served too")


@pytest.mark.row(27)
def test_a_full_disk_stops_no_request(fleet: Sickbay, fresh: Fresh, figures: Figures) -> None:
    pids = [fleet.pid(name) for name in ("worker_1", "worker_3", "gateway")]
    with OpenLoad(fleet.gateway_url, fresh(CASES), rate=USUAL) as load:
        load.wait_for(100)
        with limited(pids, resource.RLIMIT_FSIZE, 0):  # no file takes another byte
            fleet.kill("worker_2")  # an event, which can't be written
            fleet.start("worker_2")
            load.wait_for_node("worker_2")
            page = requests.get(f"{fleet.gateway_url}/admin/login/", timeout=PATIENCE_S)
            assert page.status_code == 200
            load.wait_for(200)
        load.wait_for(100)
    load.report.assert_no_failure()
    fleet.tune(batch_size=31)
    fleet.tune(batch_size=32)
    figures.say(f"disk full: 0 failed of {len(load.report.answers):,}")


@pytest.mark.row(27)
def test_without_descriptors_those_who_are_there_are_answered(fleet: Sickbay, fresh: Fresh, figures: Figures) -> None:
    pid, limit = fleet.pid("gateway"), 256
    with Load(fleet.gateway_url, fresh(CASES), connections=20, rate=USUAL) as load:
        load.wait_for(100)
        with limited([pid], resource.RLIMIT_NOFILE, limit), connected(fleet, 2 * limit):
            wait_until("none is left", lambda: open_files(pid) >= limit - 1)
            load.wait_for(300)
        wait_until("they are gone", lambda: open_files(pid) < limit // 2)
        fleet.wait_until_connected()
        assert fleet.infer([0.5] * N_IN)[0] == 200  # on a new connection
        load.wait_for(100)
    load.report.assert_no_failure()
    figures.say(f"{limit} descriptors: 0 failed of {len(load.report.answers):,}")
