"""The fleets that fault tests share: three workers of known capacity, healthy again before each test."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.faults.figures import FULL, Figures
from tests.faults.proxy import Proxies
from tests.faults.sickbay import N_IN, TUNING, Sickbay
from tests.support import onnx_models
from tests.support.load import Case, Oracle

HERE = Path(__file__).parent
FULL_TIMEOUT_S = 1200
_outcomes: dict[str, bool] = {}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "row(number): the row of the fault matrix that a test is")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if FULL and item.path.parent == HERE:
            item.add_marker(pytest.mark.timeout(FULL_TIMEOUT_S))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    if call.when == "call":
        _outcomes[item.nodeid] = report.passed  # type: ignore[attr-defined]
    return report


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Iterator[Figures]:
    """For what this test measures; kept for the table with how the test ended."""
    found = Figures(request.node.get_closest_marker("row").args[0])
    yield found
    found.passed = _outcomes.get(request.node.nodeid, False)
    found.keep()


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return onnx_models.touchy(tmp_path_factory.mktemp("model") / "touchy.onnx", N_IN)


@pytest.fixture(scope="session")
def oracle(model: Path) -> Oracle:
    return Oracle(model)


@contextmanager
def healthy(fleet: Sickbay, request: pytest.FixtureRequest) -> Iterator[None]:
    """The fleet is well before the test; after one that failed, what the gateway logged meanwhile is shown."""
    began = len(fleet.running["gateway"].log)
    fleet.heal()
    yield
    if not _outcomes.get(request.node.nodeid):
        print(fleet.running["gateway"].log[began:][-8000:])
        print(fleet.stats()["gateway"])


@pytest.fixture(scope="session")
def running_fleet(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, model: Path
) -> Iterator[Sickbay]:
    """Without proxies where it is measured; else the other one does as well, and need not be started."""
    if not FULL:
        yield request.getfixturevalue("running_proxied")[0]
        return
    with Sickbay(tmp_path_factory.mktemp("fleet"), model) as fleet:
        fleet.tune(**TUNING)
        yield fleet


@pytest.fixture
def fleet(running_fleet: Sickbay, request: pytest.FixtureRequest) -> Iterator[Sickbay]:
    with healthy(running_fleet, request):
        yield running_fleet


@pytest.fixture(scope="session")
def running_proxied(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Iterator[tuple[Sickbay, Proxies]]:
    with Proxies() as proxies, Sickbay(tmp_path_factory.mktemp("proxied"), model, ports=proxies.to) as fleet:
        fleet.tune(**TUNING)
        yield fleet, proxies


@pytest.fixture
def proxied(
    running_proxied: tuple[Sickbay, Proxies], request: pytest.FixtureRequest
) -> Iterator[tuple[Sickbay, Proxies]]:
    """A fleet whose gateway reaches each worker through a proxy that can misbehave and that counts."""
    fleet, proxies = running_proxied
    proxies.reset()
    with healthy(fleet, request):
        proxies.reset()
        yield fleet, proxies
    proxies.reset()


@pytest.fixture(scope="session")
def fresh(oracle: Oracle) -> Callable[[int], list[Case]]:
    """fresh(n) is n cases that no test has sent before."""
    seeds = iter(range(1, 10_000))
    return lambda count: oracle.random_cases(count, seed=next(seeds))
