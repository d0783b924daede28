"""The supervisor with fake children: real processes, real signals, real sockets, no Django."""

import json
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from inference_site.console import Console
from inference_site.ports import PortError, address_of, listen
from tests.support.http import get
from tests.support.processes import ROOT, Running, is_alive, wait_until
from tests.support.waiting import PATIENCE_S


@contextmanager
def cluster(children: dict[str, list[str]], **plan: float) -> Iterator[Running]:
    argv = [sys.executable, "-m", "tests.support.fake_cluster", json.dumps({"children": children, **plan})]
    with Running(argv, {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}) as running:
        yield running


def url(running: Running, name: str) -> str:
    port = running.wait_for_line(rf"^port {name} (\d+)").group(1)
    return f"http://127.0.0.1:{port}/"


def kill_and_wait_for_next(running: Running, name: str) -> None:
    old = running.pid(name)
    os.kill(old, signal.SIGKILL)
    wait_until("a new process", lambda: running.pid(name) != old)


def test_ready_comes_unprefixed_after_the_children_answer_and_their_lines_are_prefixed():
    with cluster({"worker_1": [], "gateway": []}) as running:
        running.wait_for_line(r"^ready all of it$")
        running.wait_for_line(r"^worker_1 \| serving in session")
        running.wait_for_line(r"^gateway  \| serving in session")  # aligned


def test_each_child_leads_a_session_of_its_own():
    with cluster({"worker_1": [], "gateway": []}) as running:
        running.wait_for_line(r"^ready")
        for name in ("worker_1", "gateway"):
            session = running.wait_for_line(rf"^{name} +\| serving in session (\d+)").group(1)
            assert int(session) == running.pid(name)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_gateway_before_the_worker_and_ends_with_0(number):
    with cluster({"worker_1": [], "gateway": []}) as running:
        running.wait_for_line(r"^ready")
        running.process.send_signal(number)
        assert running.wait() == 0
        assert running.log.index("gateway ended with status 0") < running.log.index("worker_1 | drained")
        assert not any(is_alive(pid) for pid in running.started_pids())


def test_a_signal_that_comes_twice_at_once_is_one():
    # make passes on a TERM that its whole process group got as well. Held up on its way, it may seem to be another one.
    for _ in range(3):
        with cluster({"worker_1": [], "gateway": []}) as running:
            running.wait_for_line(r"^ready")
            running.process.send_signal(signal.SIGTERM)
            running.process.send_signal(signal.SIGTERM)
            assert running.wait() == 0
            if "killing" not in running.log:
                return
    pytest.fail(running.log)


def test_signals_that_come_until_its_end_do_not_change_its_status():
    with cluster({"worker_1": [], "gateway": []}) as running:
        running.wait_for_line(r"^ready")
        while running.process.poll() is None:
            running.process.send_signal(signal.SIGTERM)
            time.sleep(0.001)
        assert running.wait() == 0


def test_a_child_that_ignores_term_is_killed_in_time():
    with cluster({"worker_1": ["ignore-term"], "gateway": ["ignore-term"]}, stop_wait_s=1.0) as running:
        running.wait_for_line(r"^ready")
        started = time.monotonic()
        assert running.terminate() == 0
        assert time.monotonic() - started >= 2.0  # two stages of one second each
        assert not any(is_alive(pid) for pid in running.started_pids())


def test_a_signal_before_ready_ends_with_0():
    with cluster({"worker_1": ["unready"], "gateway": []}) as running:
        running.wait_for_line(r"gateway +\| serving")
        assert running.terminate() == 0
        assert not re.search(r"^ready", running.log, re.MULTILINE)


def test_a_dead_child_is_named_and_started_again_with_a_growing_delay():
    with cluster({"worker_1": [], "gateway": []}) as running:
        running.wait_for_line(r"^ready")
        for delay in ["0.1", "0.2", "0.4"]:
            kill_and_wait_for_next(running, "worker_1")
            running.wait_for_line(rf"worker_1 was ended by SIGKILL; starting it again in {re.escape(delay)} s$")


def test_connections_made_while_a_child_is_down_wait_for_the_next():
    with cluster({"worker_1": [], "gateway": []}) as running:
        running.wait_for_line(r"^ready")
        old = running.pid("worker_1")
        os.kill(old, signal.SIGKILL)
        wait_until("the old one's end", lambda: not is_alive(old))
        status, body = get(url(running, "worker_1"))
        assert status == 200
        assert int(body) not in (0, old)


def test_a_child_that_cannot_start_ends_the_cluster_with_its_last_lines():
    with cluster({"worker_1": ["exit=3"], "gateway": []}) as running:
        assert running.wait() == 1
        report = running.wait_for_line(r"(?s)^failed: worker_1 ended with status 3, \d+ times.*").group()
        assert "the model is no model" in report
        assert not any(is_alive(pid) for pid in running.started_pids())


def test_not_ready_in_time_says_which_and_why():
    for seconds in (1, 10, 60):  # on a busy machine it may not even answer in one
        with cluster({"worker_1": ["unready"], "gateway": []}, ready_within_s=seconds) as running:
            assert running.wait() == 1
            said = running.wait_for_line(rf"^failed: not ready within {seconds} s: worker_1: (.+)$").group(1)
        if said == "answers 503":
            return
    pytest.fail(said)


def test_no_orphan_outlives_a_killed_supervisor():
    with cluster({"worker_1": [], "gateway": []}) as running:
        running.wait_for_line(r"^ready")
        running.process.kill()
        wait_until("all children's end", lambda: not any(is_alive(pid) for pid in running.started_pids()))


def test_an_output_that_nobody_reads_blocks_no_child():
    read_fd, write_fd = os.pipe()
    console = Console(write_fd, buffer_bytes=10_000)
    for number in range(20_000):
        console.line(f"line {number}")  # returns, though nothing has been read yet
    console.line("the last one", urgent=True)
    with ThreadPoolExecutor(1) as pool, os.fdopen(read_fd, errors="strict") as pipe:
        seen = pool.submit(pipe.read)
        console.close(PATIENCE_S)
        os.close(write_fd)
        lines = seen.result().splitlines()
    notes = [re.fullmatch(r"\.\.\. (\d+) lines dropped: the output was not being read", line) for line in lines]
    dropped = sum(int(note.group(1)) for note in notes if note)
    assert lines[:3] == ["line 0", "line 1", "line 2"]
    assert any(notes)  # where they stand depends on how far the writing thread had come
    assert lines[-1] == "the last one"
    assert dropped + sum(line.startswith("line ") for line in lines) == 20_000


def test_a_flood_of_one_child_blocks_neither_it_nor_the_others():
    with cluster({"worker_1": ["flood"], "gateway": []}) as running:
        # It serves only after all is written, so "ready" says that the flood has passed; some lines may be dropped.
        running.wait_for_line(r"^ready")
        running.wait_for_line(r"^worker_1 \| x{100}$")
        assert get(url(running, "worker_1"))[0] == 200
        assert running.terminate() == 0


def test_a_port_in_use_names_port_and_option():
    with listen("127.0.0.1", 0, "--port") as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortError, match=rf"port {port} on 127\.0\.0\.1: another program uses it.* with --port"):
            listen("127.0.0.1", port, "--port")


@pytest.mark.parametrize(("host", "port"), [("192.0.2.1", 0), ("no-such-host.invalid", 0), ("127.0.0.1", 70_000)])
def test_an_address_that_cannot_be_had_is_named(host, port):
    with pytest.raises(PortError, match=re.escape(f"port {port} on {host}")):
        listen(host, port, "--port")


def test_a_wildcard_is_reached_by_loopback():
    with listen("0.0.0.0", 0, "--port") as opened:
        assert address_of(opened) == f"127.0.0.1:{opened.getsockname()[1]}"
        socket.create_connection(("127.0.0.1", opened.getsockname()[1]), timeout=PATIENCE_S).close()
