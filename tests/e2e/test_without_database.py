"""A cluster or a gateway that starts while the database is away: it serves, and writes what it must once it is back."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cluster import Cluster, Server, environment, manage, prepare_database
from tests.support.http import get, request
from tests.support.processes import wait_until

VALUES = [1.0, 2.0, 3.0]
BODY = b'{"request_id": "r", "input_data": [1, 2, 3]}'
SHOW = (
    "from gateway_app.models import Worker; print(*Worker.objects.filter(enabled=True).values_list('name', flat=True))"
)
DISABLE = "from gateway_app.models import Worker; w = Worker.objects.get(name='worker_2'); w.enabled = False; w.save()"


@pytest.fixture
def missing(tmp_path: Path) -> Path:
    """The directory of a database, which is not there."""
    return tmp_path / "not-mounted"


def database_in(directory: Path) -> dict[str, str]:
    return {"DATABASE_URL": f"sqlite:///{directory}/db.sqlite3"}


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Server]:
    with Server.worker(tmp_path) as running:
        yield running.wait_ready()


def test_a_cluster_serves_and_prepares_the_database_once_it_is_back(tmp_path: Path, missing: Path):
    with Cluster(tmp_path / "cluster", workers=2, env=database_in(missing)) as cluster:
        cluster.wait_for_line(r"^The database does not answer \(.*\); check DATABASE_URL")
        assert cluster.infer(VALUES)[0] == 200
        assert {each["name"] for each in cluster.stats()["workers"] if each["connected"]} == set(cluster.names)
        assert "does not answer" in cluster.stats()["gateway"]["config_error"]

        before = cluster.kill("gateway")  # it has never seen the database: its arguments say which workers there are
        wait_until("another gateway", lambda: cluster.pid("gateway") != before)
        cluster.wait_until_connected()
        assert cluster.infer(VALUES)[0] == 200

        missing.mkdir()
        cluster.wait_for_line(r"^Administrator made: user admin, password \S+")
        cluster.wait_for_line(r"^The database has been prepared$")
        wait_until("it follows the database", lambda: not cluster.stats()["gateway"]["config_error"])
        assert cluster.manage("shell", "--verbosity=0", "--command", SHOW).stdout.split() == cluster.names

        # From now on the database says which workers there are, to the next gateway too.
        cluster.manage("shell", "--verbosity=0", "--command", DISABLE).check_returncode()
        before = cluster.kill("gateway")
        wait_until("another gateway", lambda: cluster.pid("gateway") != before)
        cluster.wait_until_connected(["worker_1"])
        enabled = {each["name"]: each["enabled"] for each in cluster.stats()["workers"]}
        assert enabled == {"worker_1": True, "worker_2": False}
        cluster.stop()


def test_a_gateway_serves_with_its_arguments_and_writes_them_once_the_database_is_back(
    tmp_path: Path, missing: Path, worker: Server
):
    env = database_in(missing)
    missing.mkdir()
    other = "worker_9=127.0.0.1:1"
    with Server.gateway(tmp_path, other, env=env) as before:  # leaves a last good configuration, with another worker
        before.wait_ready()
    away = missing.rename(missing.with_name("elsewhere"))
    address = f"worker_1={worker.url.removeprefix('http://')}"
    port = before.url.rpartition(":")[2]
    with Server(["rungateway", address, "--port", port], before.url, environment(tmp_path, env)) as gateway:
        gateway.wait_ready()
        gateway.wait_for_line("The database does not answer .*: the workers given are written to it once it does")
        wait_until("an answer", lambda: request("POST", f"{gateway.url}/infer", BODY)[0] == 200)
        away.rename(missing)
        gateway.wait_for_line("The workers of the command line have been written to the database")
        wait_until("it follows the database", lambda: b'"config_error":""' in get(f"{gateway.url}/health")[1])
        shown = manage("shell", "--verbosity=0", "--command", SHOW, env=environment(tmp_path, env))
        assert shown.stdout.split() == ["worker_1"]
        assert request("POST", f"{gateway.url}/infer", BODY)[0] == 200


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["a=127.0.0.1:1", "a=127.0.0.1:2"], "CommandError: the name a is given to 2 workers. Give each its own."),
        (["a=127.0.0.1:1", "b=127.0.0.1:1"], "CommandError: the address 127.0.0.1:1 is given to 2 workers."),
        (["a b=127.0.0.1:1"], "CommandError: worker a b=127.0.0.1:1: 'a b' cannot be a worker's name."),
    ],
)
@pytest.mark.parametrize("is_there", [True, False])
def test_wrong_arguments_are_named(tmp_path: Path, missing: Path, arguments: list[str], says: str, is_there: bool):
    env = environment(tmp_path, None if is_there else database_in(missing))
    if is_there:
        prepare_database(tmp_path, env)
    ended = manage("rungateway", *arguments, "--port", "0", env=env)
    assert ended.returncode == 1
    assert says in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_database_without_tables_is_named_with_the_fix(tmp_path: Path):
    ended = manage("rungateway", "a=127.0.0.1:1", "--port", "0", env=environment(tmp_path))
    assert ended.returncode == 1
    assert "CommandError: the database lacks tables or columns: run `manage.py migrate` first" in ended.stderr
    assert "Traceback" not in ended.stderr
