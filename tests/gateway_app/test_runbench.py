"""runbench counts, times and checks what it says: against a stub cluster whose own counts are known."""

import json
import random
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from typing import Any

import numpy
import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from hypothesis import given
from hypothesis import strategies as st

from gateway_app.bench import load
from gateway_app.bench.load import Tally, wrong_answer
from gateway_app.bench.progress import Progress
from gateway_app.bench.report import latency_figures, percentile
from gateway_app.bench.workload import ask_order, default_distinct, encode_inputs
from tests.support.processes import ROOT, wait_until
from tests.support.stub_cluster import VALUES, StubCluster, StubServer
from tests.support.waiting import PATIENCE_S


@pytest.fixture
def cluster() -> Iterator[StubCluster]:
    with StubCluster() as stub:
        yield stub


@pytest.fixture
def dead() -> Iterator[str]:
    """An address at which nobody listens; it stays the test's own."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{holder.getsockname()[1]}"


def bench(cluster: StubCluster, *arguments: str) -> dict[str, Any]:
    out = StringIO()
    call_command("runbench", "--gateway", cluster.url, "--json", *arguments, stdout=out)
    report: dict[str, Any] = json.loads(out.getvalue())
    return report


def failing_bench(cluster: StubCluster, message: str, *arguments: str) -> dict[str, Any]:
    out = StringIO()
    with pytest.raises(CommandError, match=message):
        call_command("runbench", "--gateway", cluster.url, "--json", *arguments, stdout=out)
    report: dict[str, Any] = json.loads(out.getvalue())
    return report


def test_every_figure_agrees_with_what_the_cluster_counted(cluster: StubCluster) -> None:
    report = bench(cluster, "--requests", "300", "--threads", "4", "--distinct", "30")
    assert cluster.asked == report["total_requests"] == report["successes"] == 300
    assert (report["failures"], report["success_rate"], report["errors"]) == (0, 1.0, [])
    assert report["values"] == VALUES  # as the workers' /health says
    assert report["cached_replies"] == sum(worker.hits for worker in cluster.workers)
    assert sum(len(worker.cache) for worker in cluster.workers) == 30
    assert {row["node_id"]: (row["requests"], row["cache_hits"]) for row in report["workers"]} == {
        worker.name: (worker.total, worker.hits) for worker in cluster.workers
    }
    assert {name: row["requests"] for name, row in report["node_share"].items()} == {
        worker.name: worker.total for worker in cluster.workers if worker.total
    }
    assert sum(row["share"] for row in report["node_share"].values()) == pytest.approx(1)
    assert report["requests_per_s"] == pytest.approx(300 / report["total_time_s"], rel=1e-2)
    latency = report["latency_ms"]
    order = ["min", "median", "p90", "p95", "p99", "max"]
    assert sorted(latency[name] for name in order) == [latency[name] for name in order]
    assert 0 < latency["min"] <= latency["mean"] <= latency["max"]


def test_worker_figures_are_of_this_run_only(cluster: StubCluster) -> None:
    bench(cluster, "--requests", "50", "--seed", "7", "--distinct", "10")
    report = bench(cluster, "--requests", "20", "--seed", "7", "--distinct", "10")
    assert sum(row["requests"] for row in report["workers"]) == 20
    assert report["cached_share"] == 1.0  # the same seed asks the same inputs
    assert {row["hit_rate"] for row in report["workers"]} <= {1.0, None}


def test_without_a_seed_inputs_are_new(cluster: StubCluster) -> None:
    for _ in range(2):
        assert bench(cluster, "--requests", "20", "--distinct", "20")["cached_replies"] == 0


def test_no_stats_reports_no_workers(cluster: StubCluster) -> None:
    assert bench(cluster, "--requests", "5", "--no-stats")["workers"] is None


def test_named_workers_are_asked_and_a_dead_one_is_named(cluster: StubCluster, dead: str) -> None:
    report = bench(cluster, "--requests", "30", "--workers", cluster.workers[0].server.address, dead)
    live, gone = report["workers"]
    assert (live["node_id"], live["requests"]) == ("worker_1", cluster.workers[0].total)
    assert gone["node_id"] == ""
    assert "connection refused" in gone["problem"]


def test_a_worker_that_restarts_during_the_run_is_told(cluster: StubCluster) -> None:
    cluster.workers[0].total, cluster.workers[0].hits = 1000, 900

    def restart(body: dict[str, Any]) -> None:
        if cluster.asked == 1:
            cluster.workers[0].total = cluster.workers[0].hits = 0

    cluster.fault = restart
    report = bench(cluster, "--requests", "30", "--threads", "1")
    assert "restarted" in report["workers"][0]["problem"]
    assert report["workers"][0]["requests"] == cluster.workers[0].total


def test_a_restart_shows_in_the_uptime_even_if_counts_have_grown(cluster: StubCluster) -> None:
    first = cluster.workers[0]
    first.total, first.hits, first.health_extra = 50, 0, {"uptime_s": 100.0}

    def restart(body: dict[str, Any]) -> None:
        if cluster.asked == 1:
            first.total, first.hits, first.health_extra = 60, 55, {"uptime_s": 0.1}

    cluster.fault = restart
    row = bench(cluster, "--requests", "30", "--threads", "1")["workers"][0]
    assert "restarted" in row["problem"]
    assert (row["requests"], row["cache_hits"]) == (first.total, first.hits)


def test_refusals_are_counted_by_status_with_their_first_message(cluster: StubCluster) -> None:
    refusal = {"error": "all workers are away: try again in 17 s", "code": "unavailable"}
    cluster.fault = lambda body: (503, refusal) if int(body["request_id"].split("-")[1]) % 4 == 0 else None
    report = failing_bench(cluster, "10 of 40 requests failed", "--requests", "40")
    assert (report["successes"], report["failures"], report["success_rate"]) == (30, 10, 0.75)
    assert report["errors"] == [{"cause": "HTTP 503", "count": 10, "first_message": refusal["error"]}]
    assert report["requests_per_s"] == pytest.approx(30 / report["total_time_s"], rel=1e-2)


@pytest.mark.parametrize(
    "change",
    [{"request_id": "another"}, {"output_data": []}, {"output_data": None}, {"output_data": 1.5}],
    ids=["another's id", "empty", "null", "no list"],
)
def test_an_answer_to_something_else_is_a_failure(cluster: StubCluster, change: dict[str, Any]) -> None:
    good = {"output_data": [1.0], "node_id": "worker_1", "cached": False, "inference_time_us": 1}
    cluster.fault = lambda body: (200, {"request_id": body["request_id"], **good, **change})
    report = failing_bench(cluster, "4 of 4 requests failed", "--requests", "4")
    assert [(row["cause"], row["count"]) for row in report["errors"]] == [("wrong answer", 4)]
    assert report["latency_ms"] is None
    assert report["node_share"] == {}


def test_a_200_that_is_no_json_is_a_wrong_answer(cluster: StubCluster) -> None:
    cluster.fault = lambda body: (200, "<h1>Welcome</h1>")
    assert failing_bench(cluster, "failed", "--requests", "3")["errors"][0]["cause"] == "wrong answer"


@pytest.mark.parametrize(
    ("reply", "wrong"),
    [
        ({"request_id": "a", "output_data": [0.5]}, False),
        ({"request_id": "b", "output_data": [0.5]}, True),
        ({"output_data": [0.5]}, True),
        ([{"request_id": "a", "output_data": [0.5]}], True),
        (None, True),
    ],
)
def test_wrong_answer(reply: Any, wrong: bool) -> None:
    assert bool(wrong_answer(reply, "a")) is wrong


def test_wrong_number_of_values_shows_the_servers_message(cluster: StubCluster) -> None:
    report = failing_bench(cluster, "failed", "--requests", "2", "--values", str(VALUES + 1))
    assert report["errors"][0]["cause"] == "HTTP 422"
    assert f"the model takes {VALUES}" in report["errors"][0]["first_message"]


def test_cache_test_compares_first_and_repeated(cluster: StubCluster) -> None:
    def slow_when_new(body: dict[str, Any]) -> None:
        if not any(tuple(body["input_data"]) in worker.cache for worker in cluster.workers):
            time.sleep(0.01)

    cluster.fault = slow_when_new
    report = bench(cluster, "--requests", "0", "--cache-test")
    assert "total_requests" not in report
    test = report["cache_test"]
    same, distinct = test["same_input"], test["distinct_set"]
    assert (same["first"]["cached"], same["repeated"]["cached"], same["repeated"]["requests"]) == (0, 20, 20)
    assert (distinct["first"]["cached"], distinct["repeated"]["cached"]) == (0, 50)
    for pair in (same, distinct):
        assert pair["first"]["median_ms"] >= 10
        assert pair["speed_up"] == pytest.approx(pair["first"]["median_ms"] / pair["repeated"]["median_ms"])


def test_cache_test_shows_a_cache_that_is_off_and_counts_its_failures(cluster: StubCluster) -> None:
    for worker in cluster.workers:
        worker.remembers = False
    assert bench(cluster, "--requests", "1", "--cache-test")["cache_test"]["same_input"]["repeated"]["cached"] == 0
    cluster.fault = lambda body: (503, {"error": "full"})
    report = failing_bench(cluster, "122 of 122", "--requests", "0", "--cache-test")
    assert report["cache_test"]["same_input"]["speed_up"] is None


def test_text_report_names_every_figure(cluster: StubCluster) -> None:
    out, err = StringIO(), StringIO()
    call_command("runbench", "--gateway", cluster.url, "--requests", "60", "--cache-test", stdout=out, stderr=err)
    text = out.getvalue()
    for label in (
        "Total requests   60", "Successes        60 (100.00 %)", "Total time", "Requests/sec",
        "Mean", "Median", "P90", "P95", "P99", "Min", "Max", "hit rate",
        "Share of requests", "Cache test", "speed-up", "worker_1",
    ):  # fmt: skip
        assert label in text
    assert "Failures" not in text
    assert err.getvalue() == ""


def test_an_absent_gateway_is_named_with_the_fix(dead: str) -> None:
    url = f"http://{dead}"
    with pytest.raises(CommandError, match=f"no gateway at {url}: connection refused.*runcluster.*--gateway"):
        call_command("runbench", "--gateway", url)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--requests", "0"], "--requests 0"),
        (["--threads", "0"], "--threads 0"),
        (["--distinct", "-1"], "--distinct -1"),
        (["--values", "0"], "--values 0"),
        (["--gateway", "ftp://here"], "'ftp://here' is not an address"),
        (["--gateway", "http://here:99999"], "'http://here:99999' is not an address"),
        (["--workers", "http://"], "'http://' is not an address"),
    ],
)
def test_bad_options_are_named(arguments: list[str], message: str) -> None:
    with pytest.raises(CommandError, match=message):
        call_command("runbench", *arguments)


@contextmanager
def interruptible() -> Iterator[None]:
    """A process that is started meanwhile hears Ctrl-C, even if this one was started in the background and does not."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("threads", ["1", "10"])
def test_ctrl_c_reports_what_was_measured(cluster: StubCluster, threads: str) -> None:
    cluster.fault = lambda body: time.sleep(0.02)
    command = [sys.executable, "manage.py", "runbench", "--gateway", cluster.url, "--requests", "100000", "--json"]
    command += ["--threads", threads]
    with interruptible(), subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            wait_until("50 requests", lambda: cluster.asked >= 50)
            process.send_signal(signal.SIGINT)
            out, _ = process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()
    report = json.loads(out)
    assert process.returncode == 130
    assert report["interrupted"] is True
    assert report["failures"] == 0
    assert report["total_requests"] == cluster.asked >= 50  # what was in flight was awaited, not lost


def test_nothing_is_asked_before_ctrl_c_would_end_it_with_a_report(
    cluster: StubCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    clock = time.process_time

    def process_time() -> float:  # what is read last before, and first after
        time.sleep(0.1)
        asked.append(cluster.asked)
        return clock()

    monkeypatch.setattr(time, "process_time", process_time)
    bench(cluster, "--requests", "50", "--threads", "10")
    assert asked == [0, 50]


def test_ctrl_c_at_the_very_start_awaits_what_was_asked(cluster: StubCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    watch, asked_once = load._watch, threading.Event()
    cluster.fault = lambda body: asked_once.set()

    def interrupted(*arguments: Any) -> None:
        monkeypatch.setattr(load, "_watch", watch)
        assert asked_once.wait(PATIENCE_S)
        raise KeyboardInterrupt

    monkeypatch.setattr(load, "_watch", interrupted)
    out = StringIO()
    with pytest.raises(SystemExit) as ended:
        call_command("runbench", "--gateway", cluster.url, "--json", "--requests", "100000", stdout=out)
    report = json.loads(out.getvalue())
    assert (ended.value.code, report["interrupted"], report["failures"]) == (130, True, 0)
    assert report["total_requests"] == cluster.asked >= 1


def test_progress_is_drawn_on_a_terminal_only() -> None:
    class Terminal(StringIO):
        def isatty(self) -> bool:
            return True

    terminal, file = Terminal(), StringIO()
    for stream in (terminal, file):
        progress = Progress(2000, stream)
        progress(2000)
        progress.close()
    assert "2,000/2,000" in terminal.getvalue()
    assert "100 %" in terminal.getvalue()
    assert file.getvalue() == ""


floats = st.floats(min_value=0, max_value=1e6, allow_nan=False)


@given(st.lists(floats, min_size=1, max_size=200), st.floats(min_value=0, max_value=100))
def test_percentile_is_numpys(values: list[float], percent: float) -> None:
    expected = float(numpy.percentile(values, percent))
    assert percentile(sorted(values), percent) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(st.lists(st.floats(min_value=1e-6, max_value=100), min_size=1, max_size=200))
def test_latency_figures_in_milliseconds(latencies_s: list[float]) -> None:
    figures = latency_figures(latencies_s)
    assert figures is not None
    assert figures["mean"] == pytest.approx(1000 * statistics.fmean(latencies_s), abs=1e-3)
    assert figures["median"] == pytest.approx(1000 * statistics.median(latencies_s), abs=1e-3)
    assert (figures["min"], figures["max"]) == pytest.approx(
        (1000 * min(latencies_s), 1000 * max(latencies_s)), abs=1e-3
    )


@given(st.integers(1, 3000), st.integers(1, 200), st.integers())
def test_order_asks_every_input_equally_often(requests: int, distinct: int, seed: int) -> None:
    order = ask_order(requests, distinct, random.Random(seed))
    counts = [order.count(index) for index in range(distinct)]
    assert len(order) == requests
    assert max(counts) - min(counts) <= 1


@given(st.integers(1, 60), st.integers(1, 20), st.integers())
def test_inputs_are_distinct_numbers(distinct: int, values: int, seed: int) -> None:
    decoded = [json.loads(text) for text in encode_inputs(distinct, values, random.Random(seed))]
    assert len({tuple(each) for each in decoded}) == distinct
    assert all(len(each) == values and all(isinstance(value, float) for value in each) for each in decoded)


@given(st.integers(0, 10**7), st.integers(1, 10**7))
def test_default_distinct_stays_within_caches_and_memory(requests: int, values: int) -> None:
    distinct = default_distinct(requests, values)
    assert 1 <= distinct <= 1000
    assert distinct == 1 or distinct * values * 9 <= 64 * 1024 * 1024


def test_tallies_add_up_and_keep_the_first_message() -> None:
    one, two = Tally([0.1], cached=1), Tally([0.2, 0.3])
    one.fail("HTTP 503", "first")
    two.fail("HTTP 503", "second")
    two.fail("timeout", "late")
    one.add(two)
    assert (one.successes, one.failed, one.cached) == (3, 3, 1)
    assert one.first_messages == {"HTTP 503": "first", "timeout": "late"}


def test_a_worker_can_be_measured_directly(cluster: StubCluster) -> None:
    out = StringIO()
    call_command("runbench", "--gateway", cluster.workers[1].server.url, "--requests", "10", "--json", stdout=out)
    report = json.loads(out.getvalue())
    assert (report["values"], report["workers"]) == (VALUES, [])
    assert report["node_share"]["worker_2"]["requests"] == cluster.workers[1].total == 10


def test_a_server_that_hangs_up_is_counted() -> None:
    def refuse(method: str, path: str, body: dict[str, Any]) -> Any:
        if path == "/infer":
            raise ConnectionAbortedError
        return 404, {}

    class Quiet(StubServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            pass

    with Quiet(refuse) as server:
        out = StringIO()
        with pytest.raises(CommandError, match="3 of 3"):
            call_command("runbench", "--gateway", server.url, "--requests", "3", "--json", stdout=out)
    errors = json.loads(out.getvalue())["errors"]
    assert [(row["cause"], row["count"]) for row in errors] == [("connection closed by the other side", 3)]
