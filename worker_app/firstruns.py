"""The first runs of a model, before it serves: whether it runs at all, how large its batches may be, what they cost."""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort

from worker_app.batch import Batch, Serving
from worker_app.padding import Padder
from worker_app.providers import ModelError
from worker_app.samples import Sample
from worker_app.signature import SignatureError
from worker_app.warmup import WarmUp

logger = logging.getLogger(__name__)

_UNKNOWN_S = 0.01  # what a run is thought to take until one has been seen
_BATCH_BYTES = 2**28  # of the inputs and outputs of one batch: more might take all memory
# Of the range of an output: what is further apart is another answer. Dynamic quantisation, whose steps
# follow the largest value of the batch, moves answers of a BERT by up to 0.05, but for one value in three thousand; the
# words of one text that are taken for a batch, by 0.2. The model doctor tells of what is less.
_GROSS = 0.1
_STRAYS, _LABELS = 0.01, 0.5  # the parts of all values, and of labels, that may be further apart
_SAME = 0.001  # what is further apart in two equal runs is random
_COMPARED = 2**20  # values of an output, about; of a larger one each so-many-th
_FEW = 16  # values tell nothing of their range, so that 0 is taken to be in it
_LEAST_PART = 0.02  # of the largest value: what ranges over less than that differs by rounding, too
_LEAST_RANGE = 1e-6  # what differs by less of that is 0


class FirstRuns:
    """Runs what will be met first, so that no request pays for the first allocation. All of it raises ModelError."""

    def __init__(self, path: Path, serving: Serving, read: Callable[[bytes], Sample], batches: bool) -> None:
        self._path, self._serving, self._read = path, serving, read
        self._probe: Sample
        self._row_bytes = 0
        self.probe = b""  # an ask to be read, and once one has run, one that runs
        self.errors: list[str] = []  # why the asks before it did not run
        self.batches = batches  # turns False if a batch fails
        self.cold = False  # no input was found that it runs on
        self.one_s = _UNKNOWN_S  # what a run of one row took
        self.each_s = _UNKNOWN_S  # of which each row
        self.fixed_s = 0.0  # and what it takes whatever the batch's size

    def find_probe(self, session: ort.InferenceSession, warm_up: WarmUp) -> bool:
        """Whether one of the asks to be tried runs; the first that does is the probe."""
        self.errors = []
        for ask in warm_up.probes():
            try:
                self._probe = self._read(ask)
                self.probe = self.probe or ask
                outputs = Batch(self._serving, session).infer([self._probe])
            except Exception as error:
                self.errors.append(reason_of(error))
                continue
            self._row_bytes = sum(each.nbytes for each in (*self._probe.arrays, *outputs.values()))
            self.probe = ask
            return True
        return False

    def stay_cold(self, warm_up: WarmUp) -> None:
        """After none has run: `cold` is True, unless the record names shapes."""
        message = (
            f"{self._path} loads but does not run on zeros: {self.errors[0]}; if it needs inputs of other sizes, name "
            'them in its record: "warm_up": [{"input": [1, 3, 224, 224]}]'
        )
        if warm_up.is_asked_for or self._serving.padder is not None or not self.probe:
            raise ModelError(message)
        logger.warning(
            "%s. It serves without a warm-up, and is not checked until an input of a request has run", message
        )
        self.cold = True

    def check_rows(self, session: ort.InferenceSession, warm_up: WarmUp, sample: Sample | None = None) -> None:
        """Ends batches if a row is answered otherwise beside another one than alone, as where the first axis counts the
        words of one text. What can't be told so, because two rows do not run or answers are random, changes nothing.

        `sample`: one that has run, if the probe has not.
        """
        like = sample or self._probe
        row_bytes = self._row_bytes or sum(each.nbytes for each in like.arrays)
        if not self.batches or 4 * row_bytes > _BATCH_BYTES:  # two rows alone and two together are held at once
            return
        batch = Batch(self._serving, session)
        for rows in warm_up.unlike_rows(like):
            try:
                mixed = _mixed(batch, rows)
            except Exception as error:
                logger.debug("%s: whether rows stay apart can't be told: %s", self._path.name, error)
                continue
            if mixed is not None:
                index, how = mixed
                logger.warning(
                    "%s mixes the rows of a batch: %r of a row is not the same beside another row as alone (%s), so it "
                    'runs one by one; if that is as it should be, say "batches": true in its record',
                    self._path.name, self._serving.signature.outputs[index].name, how,
                )  # fmt: skip
                self.batches = False
            return

    def warm_up(self, session: ort.InferenceSession, warm_up: WarmUp, rows: int) -> None:
        """Runs the probe alone and in a batch of `rows`, each bucket, and what the record asks for."""
        self._measure(session, min(rows, max(1, _BATCH_BYTES // max(1, self._row_bytes))))
        for ask in warm_up.asked_for():
            try:
                Batch(self._serving, session).infer([self._read(ask)])
            except Exception as error:
                raise ModelError(f"{self._path} does not run on its warm-up shapes: {reason_of(error)}") from error
        if self._serving.padder is not None:
            self._try_lengths(session, warm_up, self._serving.padder)

    def _measure(self, session: ort.InferenceSession, rows: int) -> None:
        """The least time of each size counts: the first run may take longer, and one while the process is held up."""
        batch = Batch(self._serving, session)
        took: dict[int, float] = {}
        counts = deque((1, rows, 1, 1) if self.batches and rows > 1 else (1, 1, 1))
        while counts:
            count = counts.popleft()
            began = time.perf_counter()
            try:
                batch.infer([self._probe] * count, must_batch=count > 1)
            except Exception as error:
                if count == 1:
                    raise ModelError(f"{self._path} fails on zeros once in a while: {reason_of(error)}") from error
                logger.warning("%s can't run %d at once, so it runs one by one: %s", self._path.name, count, error)
                self.batches = False
            was, took[count] = took.get(count), time.perf_counter() - began
            if was is not None:
                took[count] = min(took[count], was)
            elif count > 1 and self.batches and took[count] > count * took[1]:  # slower than one by one: really?
                counts.append(count)
        self.one_s = took[1]
        # Without batches a second sample costs as much as the first.
        several = self.batches and rows in took and rows > 1
        self.each_s = max(0.0, took[rows] - took[1]) / (rows - 1) if several else took[1]
        self.fixed_s = max(0.0, took[1] - self.each_s)

    def _try_lengths(self, session: ort.InferenceSession, warm_up: WarmUp, padder: Padder) -> None:
        """Runs each bucket, and beside it what is not filled up, which tells where outputs are to be cut."""
        options = ort.RunOptions()
        options.log_severity_level = 4  # a model need not take all lengths
        batch = Batch(self._serving, session, options)
        shapes: dict[int, list[tuple[int, ...]]] = {}
        for length in padder.lengths_to_try:
            try:
                outputs = batch.infer([warm_up.of_length(self._probe, length)])
            except Exception as error:
                if length not in padder.buckets:
                    continue
                raise ModelError(
                    f"{self._path} does not run where {padder.dimension!r} is {length}, a bucket of its padding: "
                    f"{reason_of(error)}"
                ) from error
            shapes[length] = [outputs[index].shape for index in range(len(outputs))]
        try:
            padder.learn(shapes)
        except SignatureError as error:
            raise ModelError(f"{self._path}: {error}") from error


def _mixed(batch: Batch, rows: tuple[Sample, Sample]) -> tuple[int, str] | None:
    """The output in which two rows together differ most from each alone, and by how much; None if that is little."""
    first, second = (batch.infer([row]) for row in rows)
    together = batch.infer(rows, must_batch=True)
    # Rounding may turn labels into others: half of them have to differ, unless there is one in a row and nothing else.
    labels = _LABELS if any(each.dtype.kind == "f" for each in together.values()) else _STRAYS
    found = {
        index: _apart(
            [first[index], second[index]],
            each,
            _STRAYS if each.dtype.kind == "f" else _LABELS if each[0].size > 1 else labels,
        )
        for index, each in together.items()
    }
    index = max(found, key=found.__getitem__)
    if found[index] <= _GROSS:
        return None
    once_more = batch.infer(rows[:1]), batch.infer(rows, must_batch=True)
    for before, again in zip((first, together), once_more, strict=True):
        if any(_apart([before[index]], again[index], 0) > _SAME for index in again):
            return None  # it answers at random
    return index, "another shape" if found[index] == math.inf else f"{found[index]:.0%} of its range apart"


def _apart(rows: list[np.ndarray], together: np.ndarray, strays: float) -> float:
    """How far the values of an output in some rows alone and in a batch of these are apart, as a part of its range. So
    large a part of them may be further apart: `strays`."""
    if any(each.shape[1:] != together.shape[1:] for each in rows) or sum(map(len, rows)) != len(together):
        return math.inf
    step = max(1, together.size // _COMPARED)
    alone, together = np.concatenate(rows).ravel()[::step], together.ravel()[::step]
    if not alone.size:
        return 0.0
    if alone.dtype == object:
        gaps, size = (alone != together).astype(np.float64), 1.0
    else:
        one, other = alone.astype(np.float64), together.astype(np.float64)
        both = np.concatenate([one, other])
        finite = both[np.isfinite(both)]
        largest = np.abs(finite).max(initial=0.0)
        beyond = 0.0 if finite.size < _FEW else largest
        size = max(finite.max(initial=-beyond) - finite.min(initial=beyond), _LEAST_PART * largest, _LEAST_RANGE)
        with np.errstate(invalid="ignore"):
            gaps = np.nan_to_num(np.abs(one - other), nan=math.inf, posinf=math.inf)
        gaps[(one == other) | (np.isnan(one) & np.isnan(other))] = 0.0
    place = gaps.size - 1 - int(gaps.size * strays)
    return float(np.partition(gaps, place)[place] / size)


def reason_of(error: Exception) -> str:
    """What an error says, in one line."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1][:300]
