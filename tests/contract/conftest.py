"""The doors, started once for all contract tests of a process."""

from collections.abc import Iterator

import pytest

from tests.support.doors import NAMES, Door, doors


@pytest.fixture(scope="session")
def all_doors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Door]]:
    with doors(tmp_path_factory.mktemp("doors")) as running:
        yield running
        for door in running.values():
            assert door.server.process.poll() is None, f"{door.name} has ended:\n{door.server.log}"
            # No input may cause a bug to show: one would be here as a traceback or a record of an error.
            assert "Traceback" not in door.server.log, f"{door.name}:\n{door.server.log[-5000:]}"


@pytest.fixture(params=NAMES)
def door(request: pytest.FixtureRequest, all_doors: dict[str, Door]) -> Door:
    found = all_doors[request.param]
    assert found.server.process.poll() is None, f"{found.name} has ended:\n{found.server.log}"
    return found


@pytest.fixture(params=["gateway", "gateway-django", "daphne"])
def gateway(request: pytest.FixtureRequest, all_doors: dict[str, Door]) -> Door:
    return all_doors[request.param]


@pytest.fixture(params=["worker", "worker-django"])
def worker(request: pytest.FixtureRequest, all_doors: dict[str, Door]) -> Door:
    return all_doors[request.param]
