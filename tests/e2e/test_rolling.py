"""SIGHUP to runcluster restarts everything one by one, and no client notices."""

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.support import onnx_models
from tests.support.cluster import Cluster
from tests.support.http import request
from tests.support.load import Case, Load, Oracle
from tests.support.processes import wait_until

logger = logging.getLogger(__name__)

# "ROLLING_REQUESTS=100000 pytest --log-cli-level=INFO tests/e2e/test_rolling.py" is the test at full scale: at half of
# what load and cluster manage together on two cores, one restart after the other. It says how long clients waited.
REQUESTS = int(os.environ.get("ROLLING_REQUESTS", "3000"))
RATE = 300.0 if REQUESTS < 20_000 else 900.0


class Newcomer(threading.Thread):
    """Connects anew for each request, one after the other, and never again for the same one."""

    def __init__(self, url: str, case: Case) -> None:
        super().__init__(daemon=True)
        self._url = f"{url}/infer"
        self._body = b'{"request_id":"new","input_data":%b}' % case.text
        self._stop_asked = threading.Event()
        self.failures: list[str] = []
        self.longest_s = 0.0

    def run(self) -> None:
        while not self._stop_asked.wait(0.005):
            began = time.monotonic()
            try:
                status, answer = request("POST", self._url, self._body)
                if status != 200:
                    self.failures.append(f"{status} {answer!r}")
            except OSError as error:
                self.failures.append(repr(error))
            self.longest_s = max(self.longest_s, time.monotonic() - began)

    def stop(self) -> None:
        self._stop_asked.set()
        self.join()


@pytest.mark.timeout(max(300, REQUESTS / 20))
def test_rolling_restarts_under_load_lose_nothing(tmp_path: Path):
    model = onnx_models.mlp(tmp_path / "small.onnx", (64, 128, 10))
    cases = Oracle(model).random_cases(2000, seed=1)
    with Cluster(tmp_path / "cluster", model=model) as cluster:
        before = cluster.pids()
        newcomer = Newcomer(cluster.gateway_url, cases[0])
        newcomer.start()
        restarts = 0
        with Load(cluster.gateway_url, cases, connections=20, rate=RATE) as load:
            load.wait_for(200)
            while not restarts or len(load.report.answers) < REQUESTS:
                os.kill(cluster.process.pid, signal.SIGHUP)
                restarts += 1
                wait_until("it restarts", partial(lines, cluster, "SIGHUP: restarting one by one", restarts))
                os.kill(cluster.process.pid, signal.SIGHUP)
                wait_until("it does so once", partial(lines, cluster, "SIGHUP: a restart is under way", restarts))
                wait_until("all are other ones", partial(lines, cluster, "all have been restarted, in ", restarts), 200)
            for name in cluster.names:
                load.wait_for_node(name)
        newcomer.stop()
        load.report.assert_no_failure()
        assert not newcomer.failures
        after = cluster.pids()
        assert all(after[name] != pid for name, pid in before.items())
        # The gateway's successor was there before it was told to go.
        assert cluster.log.index(f"gateway started, pid {after['gateway']}") < cluster.log.rindex("gateway ended, pid")
        logger.info(
            "%d restarts, %d answers, 0 failed; the longest took %.0f ms on a kept connection, %.0f ms on a new one",
            restarts,
            len(load.report.answers),
            1000 * max(each.latency_s for each in load.report.answers),
            1000 * newcomer.longest_s,
        )
        cluster.stop()


def lines(cluster: Cluster, text: str, count: int) -> bool:
    return cluster.log.count(text) >= count


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two workers: one alone is let go by its gateway only when it must end."""
    with Cluster(tmp_path_factory.mktemp("pair"), workers=2) as cluster:
        yield cluster


def test_a_new_gateway_that_fails_leaves_the_one_before_in_service(pair: Cluster):
    before = pair.pid("gateway")
    key = Path(pair.env["STATE_DIR"]) / "secret_key"
    kept = key.rename(key.with_name("away"))
    key.write_text("too short")  # a gateway that starts now refuses to
    os.kill(pair.process.pid, signal.SIGHUP)
    pair.wait_for_line(r"gateway is not replaced, the others are left as they are: its successor ended with")
    assert pair.infer([1.0, 2.0, 3.0])[0] == 200
    key.unlink()
    kept.rename(key)
    os.kill(pair.process.pid, signal.SIGHUP)
    pair.wait_for_line(rf"gateway ended, pid {before}: ended with status 0")
    pair.wait_for_line(r"all have been restarted")
    assert pair.infer([1.0, 2.0, 3.0])[0] == 200


def test_a_gateway_that_is_started_again_keeps_what_an_operator_has_changed(pair: Cluster):
    off = "from gateway_app.models import Worker; w = Worker.objects.get(name='worker_2'); w.enabled = False; w.save()"
    pair.manage("shell", "--verbosity=0", "--command", off).check_returncode()
    before = pair.kill("gateway")
    wait_until("another gateway", lambda: pair.pid("gateway") != before)
    pair.wait_until_connected(["worker_1"])
    assert {each["name"]: each["enabled"] for each in pair.stats()["workers"]} == {"worker_1": True, "worker_2": False}
    pair.stop()
