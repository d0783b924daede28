"""Checks 1 to 4: processes, ports, the workers' own health, and what the gateway thinks of its workers."""

from __future__ import annotations

from typing import Any

from gateway_app.diagnosis.defaultmodel import what_is_missing
from gateway_app.diagnosis.findings import Check, Line
from gateway_app.diagnosis.processes import Process, find_processes, is_this_machine
from gateway_app.diagnosis.targets import Target, Targets
from gateway_app.probe import host_port, is_gateway_health, is_worker_health

LOOK_AT_LOG = "look at its log: the last lines say why"


def check_processes(targets: Targets) -> Check:
    """The gateway's and each worker's process, found by the port that it listens on."""
    check = Check("process status")
    processes = find_processes()
    for target in (targets.gateway, *targets.workers):
        host = host_port(target.url)[0]
        label = f"{target.name} ({target.address})"
        if not is_this_machine(host):
            check.unknown(f"{label}: {host} is not this machine")
        elif processes is None:
            check.unknown(f"{label}: this system has no /proc to read processes from")
        else:
            _check_process(check, target, label, processes)
    return check


def _check_process(check: Check, target: Target, label: str, processes: list[Process]) -> None:
    pids = [str(process.pid) for process in processes if process.role == target.role and target.port in process.ports]
    supervisors = [process for process in processes if process.role == "supervisor" and target.port in process.ports]
    if pids:
        check.good(f"{label} runs as pid {', '.join(pids)}")
    elif target.ours:
        check.good(f"{label} answers; its process is not visible from here (another user's, or in a container)")
    elif supervisors:
        pid = supervisors[0].pid
        check.bad(f"{label} is not running, its supervisor (pid {pid}) is", f"runcluster restarts it; {LOOK_AT_LOG}")
    else:
        check.bad(f"{label} is not running", f"start it: {target.start_command}")


def check_ports(targets: Targets) -> Check:
    """Whether something listens on each port, and whether it is what belongs there."""
    check = Check("port availability")
    for target in (targets.gateway, *targets.workers):
        where, health = target.address, target.health
        if target.connect == "connection refused":
            check.bad(f"nothing listens on {where} ({target.name})", f"start it: {target.start_command}")
        elif target.connect:
            check.bad(
                f"{where} ({target.name}): {target.connect}",
                "check the host's name, its firewall and that the process listens beyond loopback (--host 0.0.0.0)",
            )
        elif target.ours:
            check.good(f"{where} listens and is a {target.role} of this system")
        elif health.cause.startswith("timeout"):
            check.bad(
                f"{where} ({target.name}) takes connections but does not answer",
                "it hangs, is stopped, or is being restarted by runcluster: wait a little, else end that process and "
                f"start it again: {target.start_command}",
            )
        else:
            check.bad(
                f"{where} ({target.name}) is taken by another service: {_what_answers(target)}",
                f"stop that service, or use another port than {target.port} and give it with --gateway or --workers",
            )
    return check


def _what_answers(target: Target) -> str:
    health = target.health
    if is_worker_health(health.data):
        return f"the worker {(health.data or {})['node_id']}"
    if is_gateway_health(health.data):
        return "a gateway"
    if health.cause == "not HTTP":
        return "it does not speak HTTP"
    return f"GET /health gave {health.summary}" + (f" (Server: {health.server})" if health.server else "")


def check_workers(targets: Targets) -> Check:
    """Each worker's /health: healthy, ready, who it is, and what it runs on."""
    check = Check("worker health")
    if not targets.workers:
        check.bad("no enabled worker to check", "add one: python manage.py rungateway 127.0.0.1:8001, or in /admin/")
    for target in targets.workers:
        health = target.health.data
        if not target.ours or health is None:
            check.bad(f"{target.name} ({target.address}): {target.health.summary}", _start_or_replace(target))
            continue
        problems = _worker_problems(target, health, named=target.url in targets.rows)
        for detail, fix in problems:
            check.bad(f"{target.name} ({target.address}): {detail}", fix)
        if not problems and (missing := what_is_missing(health)) is not None:
            detail = f"{target.name} ({target.address}): healthy, but {missing.detail}"
            check.lines.append(Line(missing.ok, detail, missing.fix))
        elif not problems:
            check.good(f"{target.name} ({target.address}): {_describe(health)}")
    return check


def _start_or_replace(target: Target) -> str:
    return f"see check 2: {target.start_command}" if target.connect else f"see check 2; {LOOK_AT_LOG}"


def _worker_problems(target: Target, health: dict[str, Any], named: bool) -> list[tuple[str, str]]:
    problems = []
    if health.get("healthy") is not True:
        problems.append((f"healthy is {health.get('healthy')}", f"{LOOK_AT_LOG}; then restart it"))
    if health.get("draining"):
        problems.append(("draining: it was told to stop", f"start it again: {target.start_command}"))
    elif health.get("ready", True) is not True:
        problems.append(("not ready: it still starts", "wait until its model is loaded, then diagnose again"))
    if named and health["node_id"] != target.name:
        problems.append(
            (
                f"calls itself {health['node_id']!r}, the gateway calls it {target.name!r}",
                f"restart it under its name: {target.start_command}",
            )
        )
    return problems


def _describe(health: dict[str, Any]) -> str:
    model = health.get("model") or {}
    parts = ["healthy", f"model {model.get('name', 'unknown')}", f"on {health.get('provider', 'unknown provider')}"]
    if health.get("fallback_reason"):
        parts.append(f"instead of the GPU: {health['fallback_reason']}")
    return ", ".join(parts)


def check_gateway(targets: Targets) -> Check:
    """The gateway's /health and /stats: a stream to every worker, breakers closed, its config readable."""
    check = Check("gateway connectivity")
    gateway, data = targets.gateway, targets.gateway.health.data
    if not gateway.ours or data is None:
        check.bad(f"{gateway.address}: {gateway.health.summary}", f"start it: {gateway.start_command}")
        return check
    if data.get("healthy", True) is not True:
        routable, total = data.get("routable_workers"), data["total_workers"]
        check.bad(f"/health: not healthy, {routable} of {total} workers routable", "see the workers below")
    else:
        routable = f"{data.get('routable_workers', '?')} of {data['total_workers']} routable"
        no_model = f": {data['no_model']}" if data.get("no_model") else ""
        check.good(f"{gateway.address} is healthy, {routable}{no_model}")
    if targets.stats.status != 200 or targets.stats.data is None:
        check.bad(f"/stats: {targets.stats.summary}", LOOK_AT_LOG)
        return check
    config_error = data.get("config_error") or targets.stats.data.get("gateway", {}).get("config_error")
    if config_error:
        check.bad(
            f"it runs on its last known configuration: {config_error}", "check DATABASE_URL and that the database is up"
        )
    if not data["total_workers"]:
        check.bad("it has no enabled worker", "add one: python manage.py rungateway 127.0.0.1:8001, or in /admin/")
    for target in targets.workers:
        _check_routing(check, target, targets)
    return check


def _check_routing(check: Check, target: Target, targets: Targets) -> None:
    """One worker as the gateway sees it."""
    row = targets.rows.get(target.url)
    label = f"{target.name} ({target.address})"
    if row is None:
        known = ", ".join(targets.rows) or "none"
        check.bad(f"{label}: the gateway does not know it (it knows {known})", "add it in /admin/ of the gateway")
        return
    if not row.get("enabled", True):
        check.bad(f"{label} is disabled", "enable it in /admin/ of the gateway")
        return
    breaker = _breaker_of(targets, row)
    state = breaker.get("state", "unknown")
    error = row.get("last_error") or breaker.get("last_error")
    because = f", last error: {error}" if error else ""
    if row.get("connected") is not True:
        check.bad(
            f"{label}: the gateway has no stream to it{because}",
            f"if check 2 fails for it, start it: {target.start_command}; else give both the same INFERENCE_TOKEN "
            "and the worker the name that the gateway has for it",
        )
    elif row.get("isolated"):
        check.bad(f"{label} is isolated: it gets no requests", "end its isolation in /admin/ of the gateway")
    elif state == "OPEN":
        wait_s = breaker.get("retry_after_s")
        again = f"tried again in {wait_s:.0f} s" if isinstance(wait_s, int | float) else "tried again soon"
        why = f": {breaker['reason']}" if breaker.get("reason") else because
        check.bad(f"{label}: its breaker is OPEN{why}", f"mend the cause, it is {again}")
    else:
        draining = ", draining" if row.get("draining") else ""
        check.good(f"{label}: connected, breaker {state}{draining}")


def _breaker_of(targets: Targets, row: dict[str, Any]) -> dict[str, Any]:
    breakers: list[dict[str, Any]] = (targets.stats.data or {}).get("circuit_breakers") or []
    return next((breaker for breaker in breakers if breaker.get("node") == row.get("address")), {})
