"""The benchmark itself: it runs to its end and measures what it says, however fast or slow that is here."""

import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.support.processes import ROOT

WITHIN_S = 290  # which is less than a test has


def test_the_benchmark_prints_its_table(require_tool: Callable[[str], str]):
    for tool in ("wrk", "nginx"):
        require_tool(tool)
    command = [sys.executable, "bench/run.py", "--quick", "--without-protocol", "--without-dashboards"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=WITHIN_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for row in (
        "hot: requests/s",
        "cold: requests/s",
        "close: requests/s",
        "hot, the gateway's own",
        "a lone request",
        "resident memory",
    ):
        assert f"| {row}" in done.stdout
    for text in (" errors", "max/mean 1.", "mean batch size", "Requests/sec", "P99", "| round robin |"):
        assert text in done.stdout


@pytest.mark.parametrize(
    ("part", "row"),
    [
        ("images", "1×3×224×224 float32"),
        ("compute", "512→2048→2048→100"),
        ("sentences", "sentences of"),
        ("grpc", "gRPC"),
    ],
)
def test_each_part_of_the_protocol_is_measured(require_tool: Callable[[str], str], part: str, row: str):
    for tool in ("wrk", "nginx"):
        require_tool(tool)
    command = [sys.executable, "bench/protocol.py", "--only", part, "--quick", "--pairs", "1", "--seconds", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=WITHIN_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"| {row}" in done.stdout


def test_dashboards_are_measured(require_tool: Callable[[str], str]):
    for tool in ("wrk", "nginx"):
        require_tool(tool)
    command = [sys.executable, "bench/dashboards.py", "--pairs", "1", "--seconds", "1", "--kills", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=WITHIN_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for row in ("weight of the dashboard", "10 open dashboards", "CPU a second", "a worker is killed"):
        assert f"| {row}" in done.stdout
