"""Second stage: are equal inputs answered equally, and is a row answered the same alone and among others."""

from __future__ import annotations

import msgspec
import numpy as np

from worker_app.doctor import feeds
from worker_app.doctor.compare import Difference, compare, worst
from worker_app.doctor.feeds import Feed, first_symbols
from worker_app.doctor.patient import Patient
from worker_app.doctor.reasons import reason_of
from worker_app.doctor.report import Chart

REPEATS = 4
BATCHES, BATCHES_OF_SLOW_ONES = (2, 3, 8, 8), (2, 3)
FIXED_INSIDE = "export it without sizes fixed inside (a Reshape to [1, …], say); until then requests run one by one"
LOUD = 30.0  # how much larger the neighbours of a quiet row are


def look_at_determinism(chart: Chart, patient: Patient) -> None:
    feed = feeds.random(patient.inputs, chart.recipe, patient.batch, np.random.default_rng(4))
    first = patient.run(feed)
    found = worst([compare(patient.outputs, first, patient.run(feed), cuda=patient.cuda) for _ in range(REPEATS)])
    if found.within:
        chart.good("determinism", f"the same input gives the same answer: {found}")
        chart.propose("cached", True, "the same input gives the same answer")
        return
    chart.deterministic = False
    chart.bad(
        "determinism",
        f"the same input is answered otherwise the next time: {found}",
        "export it in evaluation mode, without random operators or dropout; until then its results are not to be kept",
    )
    chart.propose("cached", False, "the same input is answered otherwise the next time")


def look_at_batching(chart: Chart, patient: Patient) -> None:
    """Sets `batches`: whether several requests may really run together."""
    if not patient.batch:
        _why_none(chart, patient)
        return
    if chart.record.batches is False:
        chart.note("batching", "not looked at: its record says that requests run one by one")
        return
    rng = np.random.default_rng(5)
    found: list[Difference] = []
    sizes = BATCHES_OF_SLOW_ONES if chart.is_slow else BATCHES
    for rows in sizes:
        problem, difference = _together(patient, feeds.random(patient.inputs, chart.recipe, patient.batch, rng, rows))
        if not problem and rows == sizes[-1] and difference is not None:
            quiet = _beside_loud_rows(patient, feeds.random(patient.inputs, chart.recipe, patient.batch, rng, rows))
            difference = worst([difference, quiet]) if quiet is not None else difference
        if problem:
            chart.bad(
                "batching",
                f"its shapes promise batches, but {rows} rows together fail: {problem}",
                FIXED_INSIDE,
            )
            chart.propose("batches", False, f"a batch of {rows} fails")
            return
        if difference is not None:
            found.append(difference)
    if not chart.deterministic:
        chart.note("batching", "batches run, but whether rows stay apart can't be told: equal inputs differ already")
        chart.propose("batches", False, "whether rows stay apart can't be told of answers that are random")
        return
    apart = worst(found)
    if not apart.within:
        chart.bad(
            "batching",
            f"mixes rows: a row is answered otherwise among others than alone: {apart}",
            "look for a softmax, mean, normalisation or quantisation over the first axis (batch norm in training"
            " mode, dynamic quantisation); until then requests run one by one",
        )
        chart.propose("batches", False, f"a row's answer depends on the rows beside it: {apart}")
        return
    chart.batches = True
    chart.propose("batches", True, f"rows together are answered as each alone: {apart}")
    chart.good("batching", f"{', '.join(map(str, sorted(set(sizes))))} rows together answer as each alone: {apart}")


def _why_none(chart: Chart, patient: Patient) -> None:
    """It claims no batch, or only half: its inputs do, but ONNX Runtime sees that an output does not follow."""
    claimed = first_symbols(patient.inputs)
    if claimed:
        recipe = msgspec.structs.replace(chart.recipe, lengths=chart.recipe.lengths | dict.fromkeys(claimed, 2))
        try:
            patient.run(feeds.random(patient.inputs, recipe, patient.batch, np.random.default_rng(5)))
        except Exception as error:
            chart.bad(
                "batching", f"its inputs promise batches, but 2 rows together fail: {reason_of(error)}", FIXED_INSIDE
            )
            chart.propose("batches", False, "a batch of 2 fails")
            return
    tensors = (*patient.inputs, *patient.outputs)
    fixed = next((each for each in tensors if not (each.symbols and each.symbols[0])), None)
    why = "the first sizes of its inputs and outputs do not count the same thing"
    if fixed is not None:
        kind = "input" if fixed in patient.inputs else "output"
        why = f"{kind} {fixed.name!r} is {fixed.sizes}, without a first size that may vary"
    chart.note(
        "batching",
        f"requests run one by one: {why}",
        "export it with a first axis of every input and output that may vary and has one name, if it is to batch",
    )


def _together(patient: Patient, feed: Feed) -> tuple[str, Difference | None]:
    """(why the batch failed, largest difference between the batch and its rows one by one)."""
    rows = len(next(iter(feed.values())))
    alone = [patient.run(feeds.row(feed, index)) for index in range(rows)]
    try:
        batch = patient.run(feed)
    except Exception as error:
        return reason_of(error), None
    for tensor, value in zip(patient.outputs, batch, strict=True):
        if not value.ndim or len(value) != rows:
            return f"output {tensor.name!r} has shape {list(value.shape)}", None
    return "", worst(
        [
            compare(patient.outputs, alone[index], [value[index : index + 1] for value in batch], cuda=patient.cuda)
            for index in range(rows)
        ]
    )


def _beside_loud_rows(patient: Patient, feed: Feed) -> Difference | None:
    """The first row again, beside rows far larger than it: what is scaled by the whole batch shows."""
    for name, value in feed.items():
        if value.dtype.kind == "f":
            loud = np.full(len(value), LOUD)
            loud[0] = 1
            feed[name] = (value * loud.reshape(-1, *(1,) * (value.ndim - 1))).astype(value.dtype)
    try:
        batch = patient.run(feed)
    except Exception:  # the neighbours are no ordinary input
        return None
    return compare(patient.outputs, patient.run(feeds.row(feed, 0)), [value[:1] for value in batch], cuda=patient.cuda)
