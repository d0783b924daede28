"""Which processes of this machine are a gateway's, a worker's or a supervisor's, and what is said of them."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gateway_app.diagnosis.processes import Process, find_processes, is_this_machine
from tests.gateway_app.diagnosis.diagnosing import diagnose, failing
from tests.support.stub_cluster import StubCluster


def test_processes_are_found_by_the_port_they_listen_on(tmp_path: Path) -> None:
    listen = "import socket, time; s = socket.create_server(('127.0.0.1', 0))"
    (tmp_path / "manage.py").write_text(f"{listen}; print(s.getsockname()[1], flush=True); time.sleep(600)")
    commands = [["runnode", "8001", "worker_1"], ["rungateway", "--fd", "3"], ["runcluster"], ["shell"]]
    started = [
        subprocess.Popen([sys.executable, "manage.py", *rest], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
        for rest in commands
    ]
    try:
        ports = [int(process.stdout.readline()) for process in started if process.stdout]
        found = find_processes(project=tmp_path)
        assert found is not None
        assert {(process.pid, process.role, process.ports) for process in found} == {
            (started[0].pid, "worker", frozenset({ports[0]})),
            (started[1].pid, "gateway", frozenset({ports[1]})),
            (started[2].pid, "supervisor", frozenset({ports[2]})),
        }
        assert not {process.pid for process in find_processes(project=tmp_path / "elsewhere") or []} & {
            process.pid for process in started
        }
    finally:
        for process in started:
            process.send_signal(signal.SIGKILL)
            process.communicate()


def fake_process(proc: Path, pid: int, cwd: Path, *arguments: str) -> None:
    (proc / str(pid)).mkdir(parents=True)
    (proc / str(pid) / "cmdline").write_bytes("".join(f"{argument}\0" for argument in arguments).encode())
    (proc / str(pid) / "cwd").symlink_to(cwd)
    (proc / str(pid) / "fd").mkdir()


def test_processes_of_other_projects_and_zombies_are_not_ours(tmp_path: Path) -> None:
    proc, ours, other = tmp_path / "proc", tmp_path / "ours", tmp_path / "other"
    (proc / "self").mkdir(parents=True)
    (proc / "self" / "cmdline").touch()
    fake_process(proc, 10, ours, "python", "manage.py", "runnode", "8001", "worker_1")
    fake_process(proc, 11, other, "python", "manage.py", "runnode", "8001", "worker_1")
    fake_process(proc, 12, other, "python", str(ours / "manage.py"), "rungateway")
    fake_process(proc, 13, ours)
    fake_process(proc, 14, ours, "vi", "runnode.py")
    fake_process(proc, 15, ours, "daphne", "inference_site.asgi:application")
    (proc / "net").mkdir()
    (proc / "net" / "tcp").write_text(
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
        "   0: 0100007F:1F41 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1\n"
        "   1: 0100007F:1F42 0100007F:9999 01 00000000:00000000 00:00000000 00000000     0        0 4712 1\n"
    )
    for number, inode in ((3, 4711), (4, 4712)):
        os.symlink(f"socket:[{inode}]", proc / "10" / "fd" / str(number))  # noqa: PTH211 - no path, a socket's name
    found = find_processes(proc, ours)
    assert [(process.pid, process.role, process.ports) for process in found or []] == [
        (10, "worker", frozenset({8001})),  # the listening socket, not the connection
        (12, "gateway", frozenset()),
        (15, "gateway", frozenset()),
    ]
    assert find_processes(tmp_path / "no proc", ours) is None


def test_what_is_another_machines_is_not_checked(monkeypatch: pytest.MonkeyPatch, cluster: StubCluster) -> None:
    assert is_this_machine("127.0.0.1")
    assert not is_this_machine("192.0.2.1")
    assert not is_this_machine("no-such-host.invalid")
    monkeypatch.setattr("gateway_app.diagnosis.reachability.is_this_machine", lambda host: False)
    status = diagnose(cluster.url)["process status"]
    assert status["ok"] is None
    assert "not checked: gateway" in status["detail"]
    assert failing(diagnose(cluster.url)) == set()


def test_a_listening_supervisor_without_its_child_is_told(
    monkeypatch: pytest.MonkeyPatch, cluster: StubCluster
) -> None:
    port = int(cluster.workers[0].server.address.rpartition(":")[2])
    cluster.workers[0].server.handle_json = lambda method, path, body: (500, "")
    processes = [Process(77, "supervisor", frozenset({port}))]
    monkeypatch.setattr("gateway_app.diagnosis.reachability.find_processes", lambda: processes)
    status = diagnose(cluster.url)["process status"]
    assert "its supervisor (pid 77) is" in status["detail"]
    assert "runcluster restarts it" in status["fix"]
