"""Two gateways on one PostgreSQL: they share the configuration, and serve on when the database is away."""

import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.cluster import Server, environment, manage
from tests.support.http import get, request
from tests.support.postgres import Postgres, programs
from tests.support.processes import wait_until

ADD = "from gateway_app.models import Worker; Worker(name='late_{0}', host='127.0.0.1', port={0}, enabled=False).save()"
TUNE = "from gateway_app.models import Tuning; t = Tuning.objects.get(); t.batch_size = {}; t.save()"
BODY = b'{"request_id": "r", "input_data": [1, 2, 3]}'


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    found = programs()
    if found is None:
        message = "PostgreSQL is not installed; .ci/run installs what the tests use"
        if os.environ.get("REQUIRE_SERVICES"):
            pytest.fail(message)
        pytest.skip(message)
    with Postgres(found) as running:
        yield running


def test_gateways_share_the_configuration_and_outlive_the_database(postgres: Postgres, tmp_path: Path):
    env = {"DATABASE_URL": postgres.url}

    def shell(script: str) -> None:
        manage("shell", "--verbosity=0", "--command", script, env=environment(tmp_path, env)).check_returncode()

    def stats(gateway: Server) -> tuple[int, str]:
        found = json.loads(get(f"{gateway.url}/stats")[1])["gateway"]
        return found["revision"], found["config_error"]

    with ExitStack() as stack:
        worker = stack.enter_context(Server.worker(tmp_path, "worker_1")).wait_ready()
        address = f"worker_1={worker.url.removeprefix('http://')}"
        first = stack.enter_context(Server.gateway(tmp_path, address, env=env)).wait_ready()
        second = stack.enter_context(Server.gateway(tmp_path, env=env)).wait_ready()
        gateways = (first, second)

        def answered() -> bool:
            return all(request("POST", f"{each.url}/infer", BODY, {})[0] == 200 for each in gateways)

        wait_until("both answer", answered)
        before = stats(first)[0]
        with ThreadPoolExecutor(4) as pool:  # four processes that save at once: none is lost
            list(pool.map(lambda port: shell(ADD.format(port)), range(9001, 9005)))
        wait_until("both have all four", lambda: all(stats(each) == (before + 4, "") for each in gateways))

        postgres.stop()
        wait_until("both say that it is away", lambda: all(stats(each)[1] for each in gateways))
        assert answered()
        postgres.start()
        wait_until("both have healed", lambda: not any(stats(each)[1] for each in gateways))
        shell(TUNE.format(17))
        # A sequence of PostgreSQL's may leave numbers out after a crash.
        wait_until("both have the change", lambda: all(stats(each)[0] > before + 4 for each in gateways))
        wait_until("so has the worker", lambda: b'"batch_size":17' in get(f"{worker.url}/health")[1])


def test_a_gateway_with_arguments_starts_while_the_database_is_away(postgres: Postgres, tmp_path: Path):
    env = {"DATABASE_URL": postgres.url}
    with ExitStack() as stack:
        worker = stack.enter_context(Server.worker(tmp_path, "worker_7")).wait_ready()
        first = Server.gateway(tmp_path, f"worker_7={worker.url.removeprefix('http://')}", env=env)
        postgres.stop()
        try:
            gateway = stack.enter_context(first).wait_ready()
            wait_until("it answers", lambda: request("POST", f"{gateway.url}/infer", BODY, {})[0] == 200)
            assert b"does not answer" in get(f"{gateway.url}/health")[1]
        finally:
            postgres.start()
        gateway.wait_for_line("The workers of the command line have been written to the database")
        wait_until("it has healed", lambda: b'"config_error":""' in get(f"{gateway.url}/health")[1])

        def enabled() -> list[str]:
            shown = json.loads(get(f"{gateway.url}/stats")[1])["workers"]
            return [each["name"] for each in shown if each["enabled"]]

        wait_until("it follows what it has written", lambda: enabled() == ["worker_7"])
