"""`manage.py runcluster` as a user has it: started, hurt, stopped."""

import os
import re
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.cluster import MANAGE, Cluster, environment, manage, run_cluster
from tests.support.http import get
from tests.support.ports import free_ports
from tests.support.processes import ROOT, Running, is_alive, wait_until
from tests.support.waiting import PATIENCE_S

VALUES = [1.0, 2.0, 3.0]
TRIES = 3


def test_ready_means_that_all_answer(cluster):
    assert re.match(r"ready http://127\.0\.0\.1:\d+ ", cluster.ready_line)
    status, answer = cluster.infer(VALUES, "first")
    assert (status, answer["request_id"]) == (200, "first")
    assert {each["name"] for each in cluster.stats()["workers"] if each["connected"]} == set(cluster.names)
    for url in [cluster.gateway_url, *cluster.worker_urls.values()]:
        assert get(f"{url}/readyz")[0] == 200
        assert get(f"{url}/livez")[0] == 200
    for name in cluster.names:
        assert cluster.health(name)["node_id"] == name


def test_output_is_prefixed_by_process(cluster):
    for line in cluster.log.splitlines():
        assert re.match(r"(cluster|gateway|worker_\d) +\| |ready |Administrator made", line), line


def test_a_killed_worker_is_started_again_and_takes_requests(cluster):
    old = cluster.kill_worker(0)
    cluster.wait_for_line(r"worker_1 was ended by SIGKILL; starting it again")
    wait_until("a new process", lambda: cluster.pid("worker_1") != old)
    cluster.wait_until_connected()
    assert cluster.infer(VALUES, url=cluster.worker_urls["worker_1"])[0] == 200


def test_a_killed_gateway_is_started_again_on_the_same_port(cluster):
    old = cluster.kill("gateway")
    # The listening socket outlives the process: this request waits for the next one.
    assert get(f"{cluster.gateway_url}/livez")[0] == 200
    wait_until("a new process is told", lambda: cluster.pid("gateway") != old)
    cluster.wait_until_connected()
    assert cluster.infer(VALUES)[0] == 200


def test_an_administrator_is_made_once_and_the_password_works(make_cluster):
    first = make_cluster(workers=1)
    password = first.password
    script = (
        f"from django.contrib.auth import authenticate; print(authenticate(username='admin', password={password!r}))"
    )
    assert first.manage("shell", "--verbosity=0", "--command", script).stdout.strip() == "admin"
    first.stop()
    with Cluster(Path(first.env["STATE_DIR"]).parent, workers=1) as second:
        assert "Administrator made" not in second.log
        assert password not in second.log


def ended_as_told(make_cluster: Callable[..., Cluster], tell: Callable[[Cluster], None], workers: int) -> Cluster:
    """A cluster that has ended as told. On a machine that holds up a process for seconds one may be killed for being
    late: not every time."""
    for _ in range(TRIES):
        running = make_cluster(workers=workers)
        pids = running.pids().values()
        tell(running)
        assert running.wait() == 0
        assert not any(is_alive(pid) for pid in pids)
        if "in time: " not in running.log:
            break
    return running


def test_term_ends_with_0_and_leaves_nothing(make_cluster):
    running = ended_as_told(make_cluster, lambda it: it.process.terminate(), 2)
    # Each by itself, none had to be killed; the gateway before the workers that it still needed.
    assert "kill" not in running.log
    assert running.log.index("gateway ended with status 0") < running.log.index("worker_1 ended with status 0")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_whole_group_ends_with_0(make_cluster, number):
    running = ended_as_told(make_cluster, lambda it: os.killpg(it.process.pid, number), 1)
    assert "gateway ended with status 0" in running.log
    assert "worker_1 ended with status 0" in running.log


def test_two_clusters_side_by_side_and_no_orphan_outlives_a_killed_supervisor(cluster, make_cluster):
    other = make_cluster(workers=2)
    assert other.stats()["total_workers"] == 2
    assert cluster.stats()["total_workers"] == 3
    assert cluster.infer(VALUES)[0] == other.infer(VALUES)[0] == 200
    pids = list(other.pids().values())
    other.process.kill()
    wait_until("every child's end", lambda: not any(is_alive(pid) for pid in pids))
    assert cluster.infer(VALUES)[0] == 200


def test_two_starts_at_once_on_one_fresh_database(tmp_path):
    env = environment(tmp_path)
    argv = [*MANAGE, "runcluster", "--workers", "1", "--port", "0", "--worker-port", "0"]
    with Running(argv, env) as one, Running(argv, env) as two:
        one.wait_for_line(r"^cluster +\| .*gateway started")
        two.wait_for_line(r"^cluster +\| .*gateway started")
        assert (one.log + two.log).count("Administrator made") == 1


@pytest.mark.parametrize("option", ["--port", "--worker-port"])
def test_a_port_in_use_is_named_with_the_fix(cluster, tmp_path, option):
    url = cluster.gateway_url if option == "--port" else cluster.worker_urls["worker_1"]
    taken = url.rpartition(":")[2]
    ports = {"--port": "0", "--worker-port": "0", option: taken}
    ended = manage(
        "runcluster", "--workers", "1", *(part for pair in ports.items() for part in pair), env=environment(tmp_path)
    )
    assert ended.returncode == 1
    assert f"port {taken}" in ended.stderr
    assert f"with {option}" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_ports_that_overlap_are_refused(tmp_path):
    port = free_ports(1)[0]
    ended = manage("runcluster", "--port", str(port + 1), "--worker-port", str(port), env=environment(tmp_path))
    assert ended.returncode == 1
    assert f"--port {port + 1} lies among the workers' ports, {port} to {port + 2}" in ended.stderr


def test_a_model_that_is_none_ends_it_with_the_reason(tmp_path):
    model = tmp_path / "broken.onnx"
    model.write_bytes(b"this is no model")
    ended = run_cluster("--model", str(model), env=environment(tmp_path))
    assert ended.returncode == 1
    assert "times before the cluster was ready" in ended.stderr  # it does not wait until its time is over
    assert "worker_1 ended with status" in ended.stderr
    assert "broken.onnx" in ended.stderr


def test_a_model_that_is_not_there_is_named(tmp_path):
    ended = manage("runcluster", "--model", "no/such.onnx", env=environment(tmp_path))
    assert ended.returncode == 1
    assert "--model is no/such.onnx, and there is no such file" in ended.stderr


def test_listening_beyond_this_machine_needs_its_settings(tmp_path):
    ended = manage("runcluster", "--host", "0.0.0.0", "--port", "0", "--worker-port", "0", env=environment(tmp_path))
    assert ended.returncode != 0
    assert "SECRET_KEY" in ended.stderr
    assert "ALLOWED_HOSTS" in ended.stderr
    assert "started, pid" not in ended.stdout


def test_a_public_name_does_not_keep_it_from_becoming_ready(make_cluster):
    settings = {"SECRET_KEY": "0123456789" * 5, "ALLOWED_HOSTS": "inference.example"}
    running = make_cluster(workers=1, env=settings, arguments=["--host", "0.0.0.0"])
    assert running.gateway_url.startswith("http://127.0.0.1:")
    assert running.infer(VALUES, headers={"Host": "inference.example"})[0] == 200


def test_an_output_that_nobody_reads_stops_nothing(tmp_path):
    port = free_ports(1)[0]
    argv = [*MANAGE, "runcluster", "--workers", "1", "--port", str(port), "--worker-port", "0"]
    read_fd, write_fd = os.pipe()
    filled = fill(write_fd)
    process = subprocess.Popen(argv, cwd=ROOT, env=environment(tmp_path), stdout=write_fd, stderr=subprocess.STDOUT)
    os.close(write_fd)

    def ready() -> bool:
        with suppress(OSError):
            return get(f"http://127.0.0.1:{port}/readyz", timeout_s=1.0)[0] == 200
        return False

    try:
        wait_until("the gateway is ready", ready)
        process.terminate()
        assert process.wait(timeout=PATIENCE_S) == 0
        with os.fdopen(read_fd, "rb") as output:
            assert len(output.read()) == filled  # it was full all the time: not one line came through
    finally:
        process.kill()
        process.wait()


def fill(write_fd: int) -> int:
    """Writes until the pipe takes no more; how many bytes that were."""
    os.set_blocking(write_fd, False)
    size_bytes = 0
    with suppress(BlockingIOError):
        while True:
            size_bytes += os.write(write_fd, b"." * 4096)
    os.set_blocking(write_fd, True)
    return size_bytes
