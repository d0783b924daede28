"""Checks 5 and 6: one input asked of every worker directly, and then twice through the gateway."""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

import requests

from gateway_app.diagnosis.defaultmodel import DefaultModel, Question, what_is_missing
from gateway_app.diagnosis.findings import Check
from gateway_app.diagnosis.reachability import LOOK_AT_LOG
from gateway_app.diagnosis.targets import Target, Targets
from gateway_app.probe import Answer, ask, output_values
from inference_site.lib.datatypes import BYTES

TOLERANCE = 1e-5
NOT_FINITE = "output_data holds null: the model answers NaN or infinity to what was tried"
# What /infer answers with that are no numbers.
_KINDS = {BYTES: "texts", "BOOL": "values of true or false"}


@dataclass(frozen=True, slots=True)
class Output:
    """A checked answer; `problem` says why it is not one, and then `values` is empty.

    `refused`: the model does not take what was asked.
    """

    values: list[float | str]
    cached: bool = False
    node: str = ""
    problem: str = ""
    refused: bool = False


@dataclass(frozen=True, slots=True)
class Asked:
    """What the workers were asked, and a worker's answer, if there is one: the gateway's is held against it."""

    model: DefaultModel
    question: Question
    answer: Output | None
    missing: bool = False  # no worker has the model of /infer


def infer(
    session: requests.Session,
    url: str,
    question: Question,
    timeout_s: float,
    expected: int | None = None,
    *,
    answers: str = "",
) -> Output:
    request_id = f"diagnose-{uuid.uuid4().hex[:12]}"
    body = json.dumps({"request_id": request_id, **question}).encode()
    answer = ask(session, "POST", f"{url}/infer", body, timeout_s)
    problem = _problem(answer, request_id, expected, answers)
    if problem or answer.data is None:
        return Output([], problem=problem, refused=answer.status == 422)
    data = answer.data
    values = [value if answers == BYTES else float(value) for value in data["output_data"]]
    return Output(values, data.get("cached") is True, str(data.get("node_id")))


def _problem(answer: Answer, request_id: str, expected: int | None, answers: str) -> str:
    if answer.status != 200 or answer.data is None:
        return f"POST /infer gave {answer.summary}"
    if answer.data.get("request_id") != request_id:
        return f"asked with request_id {request_id!r}, got {answer.data.get('request_id')!r}"
    output = answer.data.get("output_data")
    if not isinstance(output, list) or not output:
        return f"output_data is {str(output)[:60]}, not a list of numbers"
    for value in output:
        if isinstance(value, {BYTES: str, "BOOL": bool}.get(answers, ())):
            continue
        if value is None:
            return NOT_FINITE
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return f"output_data holds {value!r}, which is no finite number"
    if expected is not None and len(output) != expected:
        return f"output_data has {len(output)} values, the model answers {expected}"
    return ""


def difference(left: Sequence[float | str], right: Sequence[float | str]) -> float:
    """The largest difference of two outputs, relative where values exceed 1; infinite if lengths or texts differ."""
    if len(left) != len(right):
        return math.inf
    return max((_apart(a, b) for a, b in zip(left, right, strict=True)), default=0.0)


def _apart(a: float | str, b: float | str) -> float:
    if isinstance(a, str) or isinstance(b, str):
        return 0.0 if a == b else math.inf
    return abs(a - b) / max(1.0, abs(a), abs(b))


def check_direct(session: requests.Session, targets: Targets, timeout_s: float) -> tuple[Check, Asked]:
    """Every worker answers, and all of them the same; with what was asked and answered.

    The first that answers chooses among the inputs that may suit the model; the others are asked the same.
    """
    check = Check("direct inference")
    model = DefaultModel.of(targets)
    questions = list(model.questions())
    reference: tuple[Target, Output] | None = None
    for target in targets.workers:
        label = f"{target.name} ({target.address})"
        if target.connect:
            check.bad(f"{label}: {target.connect}", f"start it: {target.start_command}")
            continue
        missing = what_is_missing(target.health.data)
        if missing is not None:
            check.unknown(f"{label}: {missing.detail}")
            continue
        expected = output_values(target.health.data)
        for question in questions:
            output = infer(session, target.url, question, timeout_s, expected, answers=model.answers)
            if not output.refused:
                questions = [question]
                break
        if output.refused and reference is None:
            check.unknown(f"{label}: the model takes no input that was tried: {output.problem}")
            continue
        if output.problem:
            check.bad(f"{label}: {output.problem}", _fix_of(output, target))
            continue
        reference = reference or (target, output)
        apart = difference(reference[1].values, output.values)
        if apart > TOLERANCE and model.kept is not False:
            check.bad(
                f"{label} answers the same input otherwise than {reference[0].name}: they are {apart:.2g} apart",
                _fix_of_difference(targets),
            )
        else:
            check.good(f"{label}: {len(output.values)} {_KINDS.get(model.answers, 'finite values')}")
    if not targets.workers:
        check.unknown("there is no worker to ask")
    missing_everywhere = all(what_is_missing(target.health.data) is not None for target in targets.workers)
    is_missing = bool(targets.workers) and missing_everywhere
    return check, Asked(model, questions[0], reference[1] if reference else None, is_missing)


def _fix_of(output: Output, target: Target) -> str:
    if output.problem == NOT_FINITE:
        return "send it only what it is made for; manage.py diagnose --model FILE tells which inputs those are"
    return LOOK_AT_LOG if target.ours else "see check 2: another service has its port"


def _fix_of_difference(targets: Targets) -> str:
    """By the files that the workers say they have."""
    models = [(target.health.data or {}).get("model") for target in targets.workers]
    digests = {each.get("digest") for each in models if isinstance(each, dict)}
    if len(digests) == 1 and all(digests):
        return (
            "all workers have the same file, so the model itself answers otherwise each time (or GPU and CPU differ "
            'much): set "keep results" of it to No in /admin/'
        )
    return "give all workers the same model (MODEL_PATH or MODEL_REPOSITORY) and restart them"


def check_end_to_end(session: requests.Session, targets: Targets, asked: Asked, timeout_s: float) -> Check:
    """The same input through the gateway: the workers' answer, and remembered the second time."""
    check = Check("end-to-end inference")
    gateway = targets.gateway
    if gateway.connect:
        check.bad(f"{gateway.address}: {gateway.connect}", f"start it: {gateway.start_command}")
        return check
    if asked.missing:
        check.unknown(f"{gateway.address}: no worker has the model of /infer, see check 3")
        return check
    direct, kept, answers = asked.answer, asked.model.kept is not False, asked.model.answers
    first = infer(session, gateway.url, asked.question, timeout_s, answers=answers)
    if first.refused and direct is None:
        check.unknown(f"{gateway.address}: the model takes no input that was tried: {first.problem}")
        return check
    if first.problem:
        check.bad(f"{gateway.address}: {first.problem}", "mend what the checks above name; the gateway's log has more")
        return check
    if direct is None:
        check.good(
            f"{gateway.address}: {len(first.values)} values, by {first.node}; no worker's own to compare them with"
        )
    elif (apart := difference(direct.values, first.values)) > TOLERANCE and kept:
        check.bad(
            f"{gateway.address}: by {first.node}, {apart:.2g} apart from what a worker answered directly",
            _fix_of_difference(targets),
        )
    else:
        same = ", the same as directly" if apart <= TOLERANCE else ""
        check.good(f"{gateway.address}: {len(first.values)} values, by {first.node}{same}")
    again = infer(session, gateway.url, asked.question, timeout_s, answers=answers)
    if again.problem:
        check.bad(f"{gateway.address}, second time: {again.problem}", "diagnose again; the gateway's log has more")
    elif difference(first.values, again.values) > TOLERANCE and kept:
        check.bad(
            f"{gateway.address}: the same input was answered otherwise the second time",
            _fix_of_difference(targets),
        )
    elif again.cached:
        check.good("the second time it came from the cache")
    elif not kept:
        check.good("the second time it was computed again: this model's results are not kept")
    elif _cache_is_off(targets):
        check.good("the second time it was computed again: the cache is set to 0 entries")
    else:
        check.bad(
            f"the second time it was not cached (by {first.node}, then by {again.node})",
            "look in /admin/ whether the cache capacity is above 0 and the worker stays connected",
        )
    return check


def _cache_is_off(targets: Targets) -> bool:
    settings = [(target.health.data or {}).get("settings") or {} for target in targets.workers if target.ours]
    return bool(settings) and all(0 in (each.get("cache_entries"), each.get("cache_bytes")) for each in settings)
