"""Third stage: which sizes may vary, and whether inputs may be filled up to equal ones, so that they form batches."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import msgspec
import numpy as np

from inference_site.lib.datatypes import NUMPY
from worker_app.doctor import feeds
from worker_app.doctor.compare import Array, Difference, compare, worst
from worker_app.doctor.patient import Patient
from worker_app.doctor.reasons import reason_of
from worker_app.doctor.report import Chart, Recipe, Tensor

LENGTHS = (1, 2, 3, 5, 7, 8, 16, 32, 64)
LENGTHS_OF_SLOW_ONES = (3, 5, 7, 8, 16)
BUCKETS = (16, 32, 64, 128, 256, 512)
SHORT_BUCKETS = (2, 4, 8)
# (length, what it is filled up to), unlike each other: what an operator rounds up inside shows.
FILLED = ((5, 8), (7, 16), (3, 32), (2, 5), (32, 64))


def look_at_lengths(chart: Chart, patient: Patient) -> None:
    """Adds what is found of each symbol; proposes padding where it changes no answer."""
    # A batch that only the inputs claim has been looked at already.
    symbols = feeds.length_symbols(patient.inputs, patient.batch or feeds.first_symbols(patient.inputs))
    if not symbols:
        fixed = not any(symbol for each in patient.inputs for symbol in each.symbols)
        chart.good("lengths", "every size is fixed" if fixed else "every size but the first is fixed")
        return
    able: dict[str, list[int]] = {}
    lengths = LENGTHS_OF_SLOW_ONES if chart.is_slow else LENGTHS
    for symbol in symbols:
        able[symbol] = list(_lengths_that_run(chart, patient, symbol, lengths))
        if len(able[symbol]) > 1:
            chart.good("lengths", f"{symbol!r} may be {', '.join(map(str, able[symbol]))}")
        else:
            chart.note(
                "lengths",
                f"{symbol!r} is said to vary, but it runs only with {chart.recipe.lengths[symbol]}"
                f" (tried: {', '.join(map(str, lengths))})",
                "export it with that size fixed, or with nothing inside that fixes it",
            )
    choice = _choose(chart, patient, [symbol for symbol in symbols if len(able[symbol]) > 1])
    if choice is not None and chart.deterministic:
        _look_at_padding(chart, patient, choice, able[choice])


def _choose(chart: Chart, patient: Patient, symbols: list[str]) -> str | None:
    """The one that padding would fill up: the record's; else one with a mask; else the only one, if it batches."""
    if chart.record.padding is not None:
        return chart.record.padding.dimension if chart.record.padding.dimension in symbols else None
    masked = [symbol for symbol in symbols if _mask_of(patient, symbol) is not None]
    alone = symbols if len(symbols) == 1 and chart.batches else []
    # What has no name in the file can't be named in a record.
    return next((symbol for symbol in (*masked, *alone) if not symbol.startswith("?")), None)


def _lengths_that_run(chart: Chart, patient: Patient, symbol: str, lengths: tuple[int, ...]) -> Iterator[int]:
    for length in lengths:
        recipe = _with(chart.recipe, symbol, length)
        try:
            patient.run(feeds.random(patient.inputs, recipe, patient.batch, np.random.default_rng(6)))
        except Exception:  # that is the answer
            continue
        yield length


def _look_at_padding(chart: Chart, patient: Patient, symbol: str, able: list[int]) -> None:
    said = chart.record.padding
    mask = _mask_of(patient, symbol) if said is None else said.mask
    first: tuple[str, Difference | None] | None = None
    for fill in _fills(chart, patient, symbol, mask):
        problem, difference = _fill_up(chart, patient, symbol, mask, fill, able)
        if not problem and difference is not None and difference.within:
            _propose(chart, patient, symbol, mask, fill, able, difference)
            return
        first = first or (problem, difference)
    problem, difference = first or ("", None)
    what = f"filling {symbol!r} up {'fails' if problem else 'changes the answers'}: {problem or difference}"
    if said is not None:
        chart.bad("padding", f"{what}, but its record has padding", "remove padding from its record")
    elif mask is not None:
        chart.bad(
            "padding",
            f"{what}, although {mask!r} says what is filled up: the model does not heed its mask",
            "export it so that the mask reaches the attention and the pooling; do not set padding until then",
        )
    else:
        chart.note(
            "padding",
            f"{what}, and no input named like a mask says what is filled up: only requests of equal {symbol!r} batch",
            "export it with a mask input, if requests of different lengths are to batch; do not set padding",
        )


def _fills(chart: Chart, patient: Patient, symbol: str, mask: str | None) -> list[dict[str, float]]:
    """What to fill up with: the record's values; zeros; 1 for ids, where some models count positions by it."""
    if chart.record.padding is not None:
        return [chart.record.padding.values]
    ids = [
        each.name
        for each in patient.inputs
        if symbol in each.symbols and each.name != mask and NUMPY[each.datatype].kind in "iu"
    ]
    return [{}, dict.fromkeys(ids[:1], 1.0)] if ids and mask is not None else [{}]


def _fill_up(
    chart: Chart, patient: Patient, symbol: str, mask: str | None, fill: dict[str, float], able: list[int]
) -> tuple[str, Difference | None]:
    """(why it can't be done, largest difference) of inputs filled up and answers cut back; alone and in a batch."""
    found: list[Difference] = []
    pairs = [pair for pair in FILLED if set(pair) <= set(able)] or list(pairwise(able))
    for number, (length, bucket) in enumerate(pairs[:2] if chart.is_slow else pairs):
        rng = np.random.default_rng(7 + number)
        rows = 2 if chart.batches else 1
        try:
            short = feeds.random(patient.inputs, _with(chart.recipe, symbol, length), patient.batch, rng)
            expected = patient.run(short)
            filled = {each.name: _filled(each, short[each.name], symbol, bucket, mask, fill) for each in patient.inputs}
            if rows > 1:  # beside one that fills the bucket, as it will be served
                full = feeds.random(patient.inputs, _with(chart.recipe, symbol, bucket), patient.batch, rng)
                filled = {name: np.concatenate([value, full[name]]) for name, value in filled.items()}
            answers = patient.run(filled)
        except Exception as error:
            return reason_of(error), None
        if rows > 1:
            answers = [value[:1] for value in answers]
        cut = [_cut(value, other, length, bucket) for value, other in zip(answers, expected, strict=True)]
        for tensor, value, other in zip(patient.outputs, cut, expected, strict=True):
            if value.shape != other.shape:
                return f"the size of output {tensor.name!r} depends on {symbol!r} without being equal to it", None
        found.append(compare(patient.outputs, expected, cut, cuda=patient.cuda))
    return "", worst(found)


def _propose(
    chart: Chart,
    patient: Patient,
    symbol: str,
    mask: str | None,
    fill: dict[str, float],
    able: list[int],
    difference: Difference,
) -> None:
    means = f" and {mask!r} says so" if mask is not None else ""
    chart.good("padding", f"filling {symbol!r} up changes no answer{means}: {difference}")
    if not chart.batches or chart.record.padding is not None:
        return
    buckets = list(_lengths_that_run(chart, patient, symbol, BUCKETS))
    buckets = buckets or [length for length in SHORT_BUCKETS if length <= max(able)]
    padding = {"dimension": symbol, "buckets": buckets, "mask": mask, "values": fill}
    chart.propose(
        "padding",
        {name: value for name, value in padding.items() if value},
        f"requests of different {symbol!r} batch; at most half of a row is filled up beyond {buckets[0]},"
        f" and {buckets[-1]} is the longest bucket that was tried and runs",
    )


def _mask_of(patient: Patient, symbol: str) -> str | None:
    return next((each.name for each in patient.inputs if feeds.is_mask(each) and symbol in each.symbols), None)


def _with(recipe: Recipe, symbol: str, length: int) -> Recipe:
    return msgspec.structs.replace(recipe, lengths={**recipe.lengths, symbol: length})


def _filled(tensor: Tensor, value: Array, symbol: str, bucket: int, mask: str | None, fill: dict[str, float]) -> Array:
    filler = 0 if tensor.name == mask else fill.get(tensor.name, "" if value.dtype.kind == "O" else 0)
    if symbol not in tensor.symbols:
        return value
    widths = [(0, bucket - size if own == symbol else 0) for size, own in zip(value.shape, tensor.symbols, strict=True)]
    return np.pad(value, widths, constant_values=filler)


def _cut(value: Array, expected: Array, length: int, bucket: int) -> Array:
    """As a worker does: each size that is the length, whatever its name."""
    if value.ndim != expected.ndim:
        return value
    sizes = zip(value.shape, expected.shape, strict=True)
    return value[tuple(slice(length) if pair == (bucket, length) else slice(None) for pair in sizes)]
