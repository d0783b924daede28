"""Last stages: time and memory of each batch size, where its nodes run, whether two sessions are faster than one."""

from __future__ import annotations

import json
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from worker_app.doctor import feeds, memory
from worker_app.doctor.feeds import Feed
from worker_app.doctor.patient import Patient, profiled
from worker_app.doctor.reasons import reason_of
from worker_app.doctor.report import Chart, Size
from worker_app.providers import CPU, cores

ROWS = (1, 2, 4, 8, 16, 32, 64)
ENOUGH_S, ENOUGH_RUNS, FEWEST_RUNS = 0.2, 50, 3
# A batch may take this many times as long as a single row, or this long, whichever is more: what waits pays for it.
LATENCY_FACTOR, LATENCY_MS = 4.0, 5.0
NEARLY = 0.95
MEMORY_SHARE = 0.5
# A run shorter than this is little beside what a worker does around it.
WORTH_MS = 1.0
ROUNDS, ROUND_S, CLEARLY_FASTER = 3, 0.4, 1.15


def measure_sizes(chart: Chart, patient: Patient, emit: Callable[[], None], end_s: float) -> None:
    """Each size until it gets too slow or too large; `emit` sends the chart on after each: the next may be fatal."""
    base_mib = memory.resident_mib()
    began = time.perf_counter()
    patient.run(_feed(chart, patient, 1))
    first_s = time.perf_counter() - began
    for rows in ROWS if chart.batches else ROWS[:1]:
        feed = _feed(chart, patient, rows)
        forgotten = memory.forget_peak()
        times = _time(patient, feed, end_s)
        ms = statistics.median(times) * 1e3
        # Without a peak of its own: what ONNX Runtime's arena has taken, and holds.
        grown = max(0.0, (memory.peak_mib() if forgotten else memory.resident_mib()) - base_mib)
        chart.sizes.append(Size(rows, round(ms, 3), round(rows * 1e3 / ms, 1), round(grown, 1)))
        emit()
        if rows == 1:
            load_ms, first_ms = patient.load_s * 1e3, first_s * 1e3
            chart.good("warm-up", f"{load_ms:.0f} ms to load, the first run {first_ms:.3g} ms, later ones {ms:.3g} ms")
        if 2 * grown > MEMORY_SHARE * memory.available_mib() > 0:
            chart.note("memory", f"{rows} rows need {grown:.0f} MiB, so larger batches were not tried")
            break
        if time.monotonic() + 4 * FEWEST_RUNS * ms / 1e3 > end_s:
            chart.note("speed", f"{rows} rows take {ms:.0f} ms, so no larger batch was tried", "give --timeout more")
            break
    sizes = str(chart.recipe)
    best = best_size(chart.sizes)
    if chart.batches:
        gain = best.rows_per_s / chart.sizes[0].rows_per_s
        chart.good("speed", f"{best.rows} rows a batch: {best.rows_per_s:.0f} rows/s in {best.ms:.3g} ms,"
                            f" {gain:.1f} times the rate of single rows{_threads(patient)}{sizes}")  # fmt: skip
        chart.propose(
            "batch_size",
            best.rows,
            f"{best.rows_per_s:.0f} rows/s, the best rate among sizes that take at most {limit_ms(chart.sizes):.3g} ms",
        )
    else:
        chart.good("speed", f"{best.ms:.3g} ms a row, {best.rows_per_s:.0f} rows/s{_threads(patient)}{sizes}")
    last = chart.sizes[-1]
    where = " of the host; a GPU's own memory is not seen" if patient.cuda else ""
    chart.good("memory", f"{base_mib:.0f} MiB when loaded, {last.mib:.0f} MiB more for a batch of {last.rows}{where}")


def limit_ms(sizes: Sequence[Size]) -> float:
    """How long a batch may take."""
    return max(LATENCY_MS, LATENCY_FACTOR * sizes[0].ms)


def best_size(sizes: Sequence[Size]) -> Size:
    """Of the sizes that do not take too long the fastest one, or a larger one that is nearly as fast: it leaves fewer
    batches to be sent around. The first size is always among them."""
    allowed = [each for each in sizes if each.ms <= limit_ms(sizes)]
    fastest = max(each.rows_per_s for each in allowed)
    return max((each for each in allowed if each.rows_per_s >= NEARLY * fastest), key=lambda each: each.rows)


def look_at_providers(chart: Chart, path: Path, patient: Patient) -> None:
    """Counts the nodes of each provider, from ONNX Runtime's own profile of one run."""
    with tempfile.TemporaryDirectory(prefix="doctor-") as directory:
        session = profiled(path, Path(directory) / "profile", cuda=patient.cuda)
        session.run([each.name for each in patient.outputs], _feed(chart, patient, 1))
        events = json.loads(Path(session.end_profiling()).read_text())
    nodes = {
        event["name"]: (event["args"]["provider"], event["args"].get("op_name", ""))
        for event in events
        if event.get("cat") == "Node" and event.get("args", {}).get("provider")
    }
    chart.providers = dict(Counter(provider for provider, _ in nodes.values()))
    shown = ", ".join(f"{count} on {provider}" for provider, count in chart.providers.items()) or "none left to run"
    left = sorted({operator for provider, operator in nodes.values() if provider == CPU})
    if patient.cuda and left:
        chart.note("providers", f"nodes after optimisation: {shown}; on the CPU: {', '.join(left)}",
                   "fine for shapes and indices; data that goes to and fro costs time")  # fmt: skip
    else:
        chart.good("providers", f"nodes after optimisation: {shown}")


def look_at_sessions(chart: Chart, path: Path, one: Patient, end_s: float) -> None:
    """Two sessions on half the cores each, against one on all: for models that can't use many threads."""
    threads = cores()
    if threads < 2 or not chart.sizes:
        return
    rows = chart.proposed.get("batch_size", 1)
    if next(each.ms for each in chart.sizes if each.rows == rows) < WORTH_MS:
        chart.good("sessions", f"one session is enough: a run takes less than {WORTH_MS:g} ms")
        return
    if one.cuda or time.monotonic() + 2 * one.load_s + 4 * ROUNDS * ROUND_S > end_s:
        return
    feed = _feed(chart, one, rows)
    pair = [Patient(path, threads=threads // 2, on_cpu=True) for _ in range(2)]
    ratios = []
    for _ in range(ROUNDS):
        single = _rate([one], feed)
        ratios.append(_rate(pair, feed) / single)
    gain = statistics.median(ratios)
    # Every round has to agree: beside other work a single one says little.
    if min(ratios) >= CLEARLY_FASTER:
        chart.good("sessions", f"two sessions on {threads // 2} threads each are {gain:.2f} times as fast as one")
        chart.propose("sessions", 2, f"{gain:.2f} times the rate of one on {threads} threads, at {rows} rows a run")
    else:
        chart.good("sessions", f"one session is enough: two reach {gain:.2f} times its rate")


def _rate(patients: Sequence[Patient], feed: Feed) -> float:
    """Runs per second of all of them together."""
    counts = [0] * len(patients)
    errors: list[Exception] = []
    end = time.perf_counter() + ROUND_S

    def work(index: int) -> None:
        try:
            while counts[index] == 0 or time.perf_counter() < end:
                patients[index].run(feed)
                counts[index] += 1
        except Exception as error:
            errors.append(error)

    began = time.perf_counter()
    workers = [threading.Thread(target=work, args=(index,)) for index in range(len(patients))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if errors:
        raise RuntimeError(reason_of(errors[0]))
    return sum(counts) / (time.perf_counter() - began)


def _time(patient: Patient, feed: Feed, end_s: float) -> list[float]:
    """Seconds of each run, the first one left out: it allocates."""
    patient.run(feed)
    times: list[float] = []
    while len(times) < FEWEST_RUNS or (sum(times) < ENOUGH_S and len(times) < ENOUGH_RUNS):
        began = time.perf_counter()
        patient.run(feed)
        times.append(time.perf_counter() - began)
        if time.monotonic() > end_s:
            break
    return times


def _feed(chart: Chart, patient: Patient, rows: int) -> Feed:
    return feeds.random(patient.inputs, chart.recipe, patient.batch, np.random.default_rng(8), rows)


def _threads(patient: Patient) -> str:
    return "" if patient.cuda else f" on {cores()} threads"
