"""What the first runs of a model tell of its speed, also when the process is held up during one of them."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from worker_app import firstruns
from worker_app.firstruns import FirstRuns


def measured(monkeypatch: pytest.MonkeyPatch, *durations: tuple[int, float]) -> FirstRuns:
    """After runs that take so long, each of so many rows; there must be just those."""
    left, now = list(durations), 100.0

    class Runs:
        def __init__(self, *_: Any) -> None:
            pass

        def infer(self, samples: Sequence[Any], **_: Any) -> None:
            nonlocal now
            rows, took = left.pop(0)
            assert len(samples) == rows
            now += took

    monkeypatch.setattr(firstruns, "Batch", Runs)
    monkeypatch.setattr(firstruns, "time", SimpleNamespace(perf_counter=lambda: now))
    serving: Any = None
    runs = FirstRuns(Path("m.onnx"), serving, serving, batches=True)
    runs._probe = serving
    runs._measure(serving, 32)
    assert not left
    return runs


QUICK = 0.001
BATCH = 0.001 + 31 * 0.0001


@pytest.mark.parametrize("held_up", [None, 0, 1, 2, 3])
def test_a_stall_is_not_the_models_speed(monkeypatch: pytest.MonkeyPatch, held_up: int | None) -> None:
    durations = [(1, QUICK), (32, BATCH), (1, QUICK), (1, QUICK)]
    if held_up is not None:
        rows, took = durations[held_up]
        durations[held_up] = rows, took + 2.0
        if rows > 1:
            durations.append((rows, took))
    runs = measured(monkeypatch, *durations)
    assert (runs.one_s, runs.each_s, runs.fixed_s) == pytest.approx((QUICK, 0.0001, QUICK - 0.0001))


def test_a_batch_that_is_slower_than_one_by_one_each_time_is(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = measured(monkeypatch, (1, QUICK), (32, 1.0), (1, QUICK), (1, QUICK), (32, 0.5))
    assert runs.each_s == pytest.approx((0.5 - QUICK) / 31)
