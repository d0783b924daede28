"""First stage: does the file load, what goes in and comes out, does it run, are its answers numbers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from inference_site.lib.datatypes import NUMPY, ONNX
from worker_app.doctor import feeds, loading
from worker_app.doctor.compare import Array
from worker_app.doctor.patient import Patient
from worker_app.doctor.reasons import reason_of
from worker_app.doctor.report import Chart, Recipe, Tensor
from worker_app.padding import Padder
from worker_app.providers import ModelError, why_no_cuda
from worker_app.signature import SignatureError
from worker_app.warmup import WarmUp

# The first that runs is taken: long enough to be like text, then what image models begin with.
LENGTHS = (16, 8, 32, 64, 128, 224, 256, 1, 2, 4, 512)
IMAGE_LENGTHS = (224, *LENGTHS)
# What a worker tries for sizes that may vary, where its record has no shapes to warm up with.
WARM_UP_LENGTHS = (1, 8, 32, 224)
LARGE_REPLY_BYTES = 1 << 20
MIB = 1 << 20


def open_patient(chart: Chart) -> Patient | None:
    """Loads the file; without success the chart says why."""
    path = Path(chart.file)
    problem = loading.look_at(path)
    if problem is None:
        try:
            patient = Patient(path)
        except Exception as error:
            problem = loading.explain(path, str(error))
        else:
            chart.good("file", f"loads in {patient.load_s * 1e3:.0f} ms on {patient.provider}")
            if not why_no_cuda() and patient.fallback_reason:
                chart.note("file", f"CUDA did not take it: {patient.fallback_reason}", "read what it names")
            return patient
    chart.bad("file", *problem)
    return None


def describe(chart: Chart, patient: Patient) -> bool:
    """Inputs and outputs; False if a worker can't serve them."""
    chart.inputs, chart.outputs = patient.inputs, patient.all_outputs
    served = set(ONNX.values())
    odd = [each for each in patient.inputs if each.datatype not in served]
    if odd:
        chart.bad(
            "inputs",
            "; ".join(f"input {each.name!r} is {each.datatype}, which can't be sent" for each in odd),
            f"export it with tensors of {', '.join(sorted(served))}",
        )
    elif patient.inputs:
        chart.good("inputs", ", ".join(map(str, patient.inputs)))
    else:
        chart.bad("inputs", "it has no inputs, so there is nothing to ask", "export the model with its inputs")
    rest = [each for each in patient.all_outputs if each.datatype not in served]
    if not patient.outputs:
        chart.bad(
            "outputs", f"no output is a tensor that can be sent: {', '.join(map(str, rest))}", _without_maps(rest)
        )
    else:
        chart.good("outputs", ", ".join(map(str, patient.outputs)))
        if rest:
            chart.note("outputs", f"not served: {', '.join(map(str, rest))}", _without_maps(rest))
    return bool(patient.inputs and not odd and patient.outputs)


def check_record(chart: Chart, patient: Patient) -> bool:
    """What the record beside the file names has to be there; False if a worker would refuse it."""
    if patient.signature is None:
        return False
    try:
        padding = chart.record.padding
        padder = Padder(patient.signature, padding) if padding is not None else None
        patient.signature.output_of(chart.record.output)
        WarmUp(patient.signature, chart.record, padder)
    except SignatureError as error:
        chart.bad("record", str(error), "correct the record, or give the model what it names")
        return False
    return True


def try_out(chart: Chart, patient: Patient) -> Patient | None:
    """Finds inputs that it runs on, and whether it runs on the zeros that a worker warms it up with.

    What is to be looked at further: another one, on the CPU, if it is CUDA that does not run it; None if nothing runs.
    """
    reason = _try_recipes(chart, patient)
    if reason and patient.cuda and (other := _on_cpu(chart)) is not None:
        chart.bad(
            "cuda",
            "opens on CUDA but does not run there, so a worker runs it on the CPU: "
            f"{_why_not(chart.recipe, patient) or reason}",
            "install what it names (CUDA 13 and cuDNN 9), or use a GPU that this build of ONNX Runtime is made for",
        )
        chart.on_cpu, patient, reason = True, other, ""
    if reason:
        chart.bad(
            "run",
            f"loads but does not run on any ordinary input that was tried: {reason}",
            "name shapes that it runs on in its record (warm_up), or export it again",
        )
        return None
    chart.good("run", f"runs on random inputs{chart.recipe}")
    return patient if _warm_up(chart, patient) else None


def _on_cpu(chart: Chart) -> Patient | None:
    """The same file on the CPU, if it runs there."""
    try:
        patient = Patient(Path(chart.file), on_cpu=True)
    except ModelError:
        return None
    return None if _try_recipes(chart, patient) else patient


def _try_recipes(chart: Chart, patient: Patient) -> str:
    """Takes the first recipe that runs; why the very first did not if none does, else ""."""
    first_reason = ""
    for recipe in recipes(patient.inputs, patient.batch, chart.record.warm_up or ()):
        began = time.perf_counter()
        if reason := _why_not(recipe, patient):
            first_reason = first_reason or reason
            continue
        chart.recipe, chart.run_s = recipe, time.perf_counter() - began
        return ""
    return first_reason


def _why_not(recipe: Recipe, patient: Patient) -> str:
    """Why it does not run on one row of that; "" if it does."""
    try:
        patient.run(feeds.random(patient.inputs, recipe, patient.batch, np.random.default_rng(1)))
    except Exception as error:
        return reason_of(error)
    return ""


def recipes(
    inputs: tuple[Tensor, ...], batch: frozenset[str], warm_up: tuple[dict[str, tuple[int, ...]], ...]
) -> Iterator[Recipe]:
    """What to try, in this order: sizes, and for each of them smaller and smaller integers."""
    symbols = feeds.length_symbols(inputs, batch)
    image = any(len(each.shape) == 4 and each.shape.count(-1) >= 2 for each in inputs)
    sizes = [_lengths_of(shapes, inputs, batch) for shapes in warm_up]
    sizes += [dict.fromkeys(symbols, length) for length in (IMAGE_LENGTHS if image else LENGTHS)] if symbols else [{}]
    whole = [each.name for each in inputs if NUMPY[each.datatype].kind in "iuO" and not feeds.is_mask(each)]
    highs: list[dict[str, int]] = [{}]
    if whole:
        # Tables of two rows are common: of the kinds of a text's parts, say.
        highs += [{name: 1} for name in whole] if len(whole) > 1 else []
        highs += [dict.fromkeys(whole, 1), dict.fromkeys(whole, 0)]
    for lengths in sizes:
        for each in highs:
            yield Recipe(lengths, each)


def _lengths_of(
    shapes: dict[str, tuple[int, ...]], inputs: tuple[Tensor, ...], batch: frozenset[str]
) -> dict[str, int]:
    return {
        symbol: size
        for tensor in inputs
        for symbol, size in zip(tensor.symbols, shapes.get(tensor.name, ()), strict=False)
        if symbol and symbol not in batch
    }


def _warm_up(chart: Chart, patient: Patient) -> bool:
    lengths = chart.recipe.lengths
    usual = [dict.fromkeys(lengths, length) for length in WARM_UP_LENGTHS[: None if lengths else 1]]
    reason = ""
    for sizes in (*usual, lengths) if chart.record.warm_up is None else (lengths,):
        feed = feeds.zeros(patient.inputs, sizes, patient.batch)
        try:
            patient.run(feed)
        except Exception as error:
            reason = reason or reason_of(error)
            continue
        if sizes is lengths and chart.record.warm_up is None:
            shapes = {name: list(value.shape) for name, value in feed.items()}
            chart.propose("warm_up", [shapes], f"it does not run in the sizes that a worker tries by itself: {reason}")
        chart.runs = True
        return True
    detail = f"does not run on zeros, which a worker warms it up with: {reason}"
    fix = "export it so that zeros (for text: nothing) are a legal input"
    if chart.record.warm_up is None and chart.record.padding is None:
        chart.note("run", f"{detail}; nor perhaps on ones: then it serves cold, unchecked until an input has run", fix)
        chart.runs = True
    else:
        chart.bad("run", detail, fix)
    return chart.runs


def look_at_values(chart: Chart, patient: Patient) -> None:
    """NaN and infinity, answers too large, and which output /infer serves."""
    takes_zeros = _takes_zeros(chart, patient)
    kinds = ("zeros", "unit", "normal") if takes_zeros else ("unit", "normal")
    bad = {kind: _odd_outputs(chart, patient, kind) for kind in kinds}
    has_floats = any(NUMPY[each.datatype].kind == "f" and not feeds.is_mask(each) for each in patient.inputs)
    words = {"zeros": "zeros", "unit": "numbers from 0 to 1", "normal": "numbers around 0, negative ones too"}
    if not has_floats:
        words = {"zeros": "zeros", "unit": "small whole numbers", "normal": "small whole numbers"}
    where = ", ".join(dict.fromkeys(words[kind] for kind, odd in bad.items() if odd))
    names = ", ".join(dict.fromkeys(name for odd in bad.values() for name in odd))
    if bad["normal"] and not bad["unit"]:
        chart.recipe = Recipe(chart.recipe.lengths, chart.recipe.highs, "unit")
    if bad["unit"]:
        chart.bad(
            "values",
            f"{names}: NaN or infinity for ordinary inputs ({where})",
            "look for a logarithm, root or division in it that needs a small constant, or for weights that are NaN",
        )
    elif where:
        chart.note("values", f"{names}: NaN or infinity for {where}", "send it only what it is made for")
    else:
        chart.good("values", f"finite for {'zeros and for ' * takes_zeros}random inputs")
    _choose_output(chart, patient)


def _zeros(chart: Chart, patient: Patient) -> feeds.Feed:
    feed = feeds.zeros(patient.inputs, chart.recipe.lengths, patient.batch)
    return feed | {each.name: np.ones_like(feed[each.name]) for each in patient.inputs if feeds.is_mask(each)}


def _takes_zeros(chart: Chart, patient: Patient) -> bool:
    try:
        patient.run(_zeros(chart, patient))
    except Exception:
        return False
    return True


def _odd_outputs(chart: Chart, patient: Patient, kind: str) -> list[str]:
    """The outputs that hold NaN or infinity. A single value of a thousand counts: JSON can't carry it."""
    rng = np.random.default_rng(2)
    recipe = Recipe(chart.recipe.lengths, chart.recipe.highs, kind)
    odd: dict[str, str] = {}
    for _ in range(1 if kind == "zeros" else 3):
        feed = _zeros(chart, patient) if kind == "zeros" else feeds.random(patient.inputs, recipe, patient.batch, rng)
        for tensor, value in zip(patient.outputs, patient.run(feed), strict=True):
            if value.dtype.kind == "f" and not np.isfinite(value).all():
                odd[tensor.name] = f"output {tensor.name!r}"
    return list(odd.values())


def _choose_output(chart: Chart, patient: Patient) -> None:
    """/infer serves the first output of floats, as a worker chooses it, unless that is a label written as a float."""
    feed = feeds.random(patient.inputs, chart.recipe, patient.batch, np.random.default_rng(3))
    answers = dict(zip((each.name for each in patient.outputs), patient.run(feed), strict=True))
    floats = [each.name for each in patient.outputs if each.datatype in ("FP32", "FP64", "FP16")]
    numbers = [each.name for each in patient.outputs if NUMPY[each.datatype].kind in "iufb"]
    served = chart.record.output or next(iter(floats or numbers or [patient.outputs[0].name]))
    if chart.record.output is None and floats:
        first = answers[served]
        wider = next((name for name in floats if name != served and answers[name].size > 1), None)
        if wider is not None and first.size == 1 and np.array_equal(first, np.round(first)):
            chart.propose("output", wider, f"{served!r} is one whole number, a label; {wider!r} says more")
            served = wider
        elif len(patient.outputs) > 1:
            chart.propose("output", served, f"the first of floats, among {len(patient.outputs)} outputs")
    chart.good("output", f"/infer serves {served!r}, {_size(answers[served])} a row")
    large = [f"{name!r} {_size(value)}" for name, value in answers.items() if value.nbytes > LARGE_REPLY_BYTES]
    if large:
        chart.note(
            "output",
            f"large: {', '.join(large)} a row, several times that as JSON",
            "let clients ask for binary outputs, and only for those they need",
        )


def _size(value: Array) -> str:
    count = f"{value.size} value{'s' * (value.size != 1)}"
    return count if value.nbytes < MIB else f"{count} ({value.nbytes / MIB:.1f} MiB)"


def _without_maps(tensors: list[Tensor]) -> str:
    if any(each.datatype.startswith(("seq", "map")) for each in tensors):
        return 'export it without maps: skl2onnx takes options={"zipmap": False}'
    return "export it with outputs that are tensors"
