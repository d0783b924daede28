"""The scenarios that are quick to run: they find what the mechanisms are there for."""

import subprocess
import sys

from bench import mechanisms
from tests.support.processes import ROOT


def test_joining_makes_one_inference_of_a_thousand_requests():
    for row in mechanisms.joining():
        assert row["errors %"] == 0
        if row["joining"] == "on":
            assert (row["sent to workers"], row["inferences"]) == (1, 1)
        else:
            assert row["sent to workers"] == 1000
            assert row["inferences"] == (3 if row["bounded load"] != "off" else 1)


def test_waits_that_double_cost_fewer_requests_and_end_later():
    rows = [row for row in mechanisms.doubled_wait() if row["sick for s"] == 3600]
    assert [row["open for s"] for row in rows] == ["30 to 300", "30 to 60", "30 to 30"]
    costs = [float(row["requests it cost"]) for row in rows]
    assert costs == sorted(costs)
    assert costs[0] < costs[-1] / 5
    assert float(rows[0]["back after s"]) <= 301


def test_it_prints_a_table_for_each_scenario_that_is_asked_for():
    command = [sys.executable, "bench/mechanisms.py"]
    done = subprocess.run([*command, "doubled"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "**doubled wait of a breaker**" in done.stdout
    assert done.stdout.count("\n|") == 2 + 12
    refused = subprocess.run([*command, "nonsense"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "'nonsense'" in refused.stderr
