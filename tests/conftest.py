"""What every test may use: tools that must be there in CI, and running clusters of its own."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from django.conf import settings
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from tests.support.cluster import Cluster

# No test reads or writes the state or database of the checkout it runs in, nor obeys the shell it was started from:
# processes that tests start get this environment, and the settings of this one, loaded already, get the directory.
_state = tempfile.TemporaryDirectory(prefix="inference-tests-")
os.environ["STATE_DIR"] = _state.name
os.environ["DATABASE_URL"] = f"sqlite:///{_state.name}/db.sqlite3"
for _name in (
    "SECRET_KEY",
    "ALLOWED_HOSTS",
    "INFERENCE_TOKEN",
    "INFERENCE_MODE",
    "MODEL_PATH",
    "MODEL_REPOSITORY",
    "MODEL_CONTROL_TOKEN",
    "MAX_MODEL_MIB",
    "GRPC_PORT",
    "GPU_MEM_LIMIT_MIB",
    "REDIS_URL",
    "DATA_PLANE",
    "LOG_LEVEL",
):
    os.environ.pop(_name, None)
settings.STATE_DIR = Path(_state.name)
# A busy machine is no fault of what is tested.
hypothesis_settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
hypothesis_settings.load_profile("any machine")
# Half a second for each user that a test makes is what the usual one is for.
settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


# Folders whose tests take long come first, or the last of them would end minutes after all else.
LONG = ("bench", "faults", "e2e", "rpc", "browser", "contract", "docs")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Each test process begins with its part of the long ones. What shares a module stays together."""
    modules: dict[Path, list[pytest.Item]] = {}
    for item in items:
        modules.setdefault(item.path, []).append(item)
    here = Path(__file__).parent
    ranks = {name: rank for rank, name in enumerate(LONG)}
    in_order = sorted(modules, key=lambda path: ranks.get(path.relative_to(here).parts[0], len(LONG)))
    processes = int(getattr(config, "workerinput", {}).get("workercount", 1))
    items[:] = [item for first in range(processes) for path in in_order[first::processes] for item in modules[path]]


@pytest.fixture(scope="session")
def require_tool() -> Callable[[str], str]:
    """require_tool("wrk") is its path. Without it the test is skipped, or fails if REQUIRE_SERVICES is set."""

    def find(name: str) -> str:
        # Debian keeps servers where an ordinary user's PATH does not look.
        found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
        if found:
            return found
        message = f"{name} is not installed; .ci/run installs what the tests use"
        if os.environ.get("REQUIRE_SERVICES"):
            pytest.fail(message)
        pytest.skip(message)

    return find


@pytest.fixture
def make_cluster(tmp_path: Path) -> Iterator[Callable[..., Cluster]]:
    """make_cluster(workers=2, env={...}) is a ready cluster of this test's own; it ends with the test."""
    with ExitStack() as stack:
        made = 0

        def make(**options: object) -> Cluster:
            nonlocal made
            made += 1
            directory = tmp_path / f"cluster-{made}"
            return stack.enter_context(Cluster(directory, **options))  # type: ignore[arg-type]

        yield make


@pytest.fixture(scope="session")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("shared-cluster"), calm=True) as running:
        yield running


@pytest.fixture
def cluster(shared_cluster: Cluster) -> Cluster:
    """Three workers and a gateway, shared by the tests of one process: a test leaves it as it found it."""
    assert shared_cluster.process.poll() is None, f"an earlier test ended the shared cluster:\n{shared_cluster.log}"
    shared_cluster.wait_until_connected()
    return shared_cluster
