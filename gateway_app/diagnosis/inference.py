"""Checks 5 and 6: one input asked of every worker directly, and then twice through the gateway."""

from __future__ import annotations

import json
import math
import random
import uuid
from dataclasses import dataclass

import requests

from gateway_app.diagnosis.findings import Check
from gateway_app.diagnosis.reachability import LOOK_AT_LOG
from gateway_app.diagnosis.targets import Target, Targets
from gateway_app.probe import DEFAULT_VALUES, Answer, ask, input_values, output_values

TOLERANCE = 1e-5


@dataclass(frozen=True, slots=True)
class Output:
    """A checked answer; `problem` says why it is not one, and then `values` is empty."""

    values: list[float]
    cached: bool = False
    node: str = ""
    problem: str = ""


def new_input(targets: Targets) -> list[float]:
    """As long as the model takes, and never asked before: so the first answer is computed, not remembered."""
    sizes = [input_values(target.health.data) for target in targets.workers]
    size = next((size for size in sizes if size), DEFAULT_VALUES)
    return [round(random.uniform(-1, 1), 6) for _ in range(size)]


def infer(
    session: requests.Session, url: str, values: list[float], timeout_s: float, expected: int | None = None
) -> Output:
    request_id = f"diagnose-{uuid.uuid4().hex[:12]}"
    body = json.dumps({"request_id": request_id, "input_data": values}).encode()
    answer = ask(session, "POST", f"{url}/infer", body, timeout_s)
    problem = _problem(answer, request_id, expected)
    if problem or answer.data is None:
        return Output([], problem=problem)
    data = answer.data
    return Output([float(value) for value in data["output_data"]], data.get("cached") is True, str(data.get("node_id")))


def _problem(answer: Answer, request_id: str, expected: int | None) -> str:
    if answer.status != 200 or answer.data is None:
        return f"POST /infer gave {answer.summary}"
    if answer.data.get("request_id") != request_id:
        return f"asked with request_id {request_id!r}, got {answer.data.get('request_id')!r}"
    output = answer.data.get("output_data")
    if not isinstance(output, list) or not output:
        return f"output_data is {str(output)[:60]}, not a list of numbers"
    for value in output:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return f"output_data holds {value!r}, which is no finite number"
    if expected is not None and len(output) != expected:
        return f"output_data has {len(output)} values, the model answers {expected}"
    return ""


def difference(left: list[float], right: list[float]) -> float:
    """The largest difference of two outputs, relative where values exceed 1; infinite if their lengths differ."""
    if len(left) != len(right):
        return math.inf
    return max((abs(a - b) / max(1.0, abs(a), abs(b)) for a, b in zip(left, right, strict=True)), default=0.0)


def check_direct(
    session: requests.Session, targets: Targets, values: list[float], timeout_s: float
) -> tuple[Check, Output | None]:
    """Every worker answers, and all of them the same; with the answer that the gateway's is to be held against."""
    check = Check("direct inference")
    reference: tuple[Target, Output] | None = None
    for target in targets.workers:
        label = f"{target.name} ({target.address})"
        if target.connect:
            check.bad(f"{label}: {target.connect}", f"start it: {target.start_command}")
            continue
        output = infer(session, target.url, values, timeout_s, output_values(target.health.data))
        if output.problem:
            fix = LOOK_AT_LOG if target.ours else "see check 2: another service has its port"
            check.bad(f"{label}: {output.problem}", fix)
            continue
        reference = reference or (target, output)
        apart = difference(reference[1].values, output.values)
        if apart > TOLERANCE:
            check.bad(
                f"{label} answers the same input otherwise than {reference[0].name}: they are {apart:.2g} apart",
                "give both workers the same MODEL_PATH and restart them",
            )
        else:
            check.good(f"{label}: {len(output.values)} finite values")
    if not targets.workers:
        check.unknown("there is no worker to ask")
    return check, reference[1] if reference else None


def check_end_to_end(
    session: requests.Session, targets: Targets, values: list[float], direct: Output | None, timeout_s: float
) -> Check:
    """The same input through the gateway: the workers' answer, and remembered the second time."""
    check = Check("end-to-end inference")
    gateway = targets.gateway
    if gateway.connect:
        check.bad(f"{gateway.address}: {gateway.connect}", f"start it: {gateway.start_command}")
        return check
    first = infer(session, gateway.url, values, timeout_s)
    if first.problem:
        check.bad(f"{gateway.address}: {first.problem}", "mend what the checks above name; the gateway's log has more")
        return check
    if direct is None:
        check.good(
            f"{gateway.address}: {len(first.values)} values, by {first.node}; no worker's own to compare them with"
        )
    elif (apart := difference(direct.values, first.values)) > TOLERANCE:
        check.bad(
            f"{gateway.address}: by {first.node}, {apart:.2g} apart from what a worker answered directly",
            "give all workers the same MODEL_PATH and restart them",
        )
    else:
        check.good(f"{gateway.address}: {len(first.values)} values, by {first.node}, the same as directly")
    again = infer(session, gateway.url, values, timeout_s)
    if again.problem:
        check.bad(f"{gateway.address}, second time: {again.problem}", "diagnose again; the gateway's log has more")
    elif difference(first.values, again.values) > TOLERANCE:
        check.bad(
            f"{gateway.address}: the same input was answered otherwise the second time",
            "give all workers the same MODEL_PATH and restart them",
        )
    elif again.cached:
        check.good("the second time it came from the cache")
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
