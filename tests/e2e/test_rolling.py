"""SIGHUP to runcluster restarts everything one by one, and no client notices."""

import os
import signal
from pathlib import Path

from tests.support import onnx_models
from tests.support.cluster import Cluster
from tests.support.load import Load, Oracle
from tests.support.processes import wait_until


def test_a_rolling_restart_under_load_loses_nothing(tmp_path: Path):
    model = onnx_models.mlp(tmp_path / "small.onnx", (64, 128, 10))
    cases = Oracle(model).random_cases(2000, seed=1)
    with Cluster(tmp_path / "cluster", model=model) as cluster:
        before = cluster.pids()
        with Load(cluster.gateway_url, cases, connections=20, rate=300.0) as load:
            load.wait_for(200)
            os.kill(cluster.process.pid, signal.SIGHUP)
            cluster.wait_for_line(r"SIGHUP: restarting one by one")
            os.kill(cluster.process.pid, signal.SIGHUP)
            cluster.wait_for_line(r"SIGHUP: a restart is under way already")
            cluster.wait_for_line(r"all have been restarted, in [\d.]+ s", timeout_s=100.0)
            for name in cluster.names:
                load.wait_for_node(name)
        load.report.assert_no_failure()
        after = cluster.pids()
        assert all(after[name] != pid for name, pid in before.items())
        cluster.stop()


def test_a_gateway_that_is_started_again_keeps_what_an_operator_has_changed(tmp_path: Path):
    off = "from gateway_app.models import Worker; w = Worker.objects.get(name='worker_2'); w.enabled = False; w.save()"
    with Cluster(tmp_path / "cluster", workers=2) as cluster:
        cluster.manage("shell", "--verbosity=0", "--command", off).check_returncode()
        before = cluster.kill("gateway")
        wait_until("another gateway", lambda: cluster.pid("gateway") != before)
        cluster.wait_until_connected(["worker_1"])
        assert {each["name"]: each["enabled"] for each in cluster.stats()["workers"]} == {
            "worker_1": True,
            "worker_2": False,
        }
