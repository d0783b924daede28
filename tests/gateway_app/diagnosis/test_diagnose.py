"""diagnose says what is wrong and what mends it: against a stub cluster with one fault at a time."""

import json
import socket
import threading
from contextlib import closing
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError

from gateway_app.diagnosis.findings import Check
from tests.gateway_app.diagnosis.diagnosing import NAMES, diagnose, failing
from tests.support.stub_cluster import StubCluster, StubServer
from tests.support.waiting import PATIENCE_S


def stop_worker(cluster: StubCluster, index: int) -> str:
    cluster.workers[index].server.stop()
    return cluster.workers[index].server.address


def test_a_healthy_cluster_passes_all_six(cluster: StubCluster) -> None:
    checks = diagnose(cluster.url)
    assert [check["ok"] for check in checks.values()] == [True] * 6
    assert all(check["fix"] == "" for check in checks.values())
    assert cluster.asked == 2  # the same input twice through the gateway
    assert [line["ok"] for line in checks["direct inference"]["lines"]] == [True] * 3
    assert "CPUExecutionProvider" in checks["worker health"]["detail"]


def test_text_marks_checks_and_prints_fixes(cluster: StubCluster) -> None:
    out = StringIO()
    call_command("diagnose", "--gateway", cluster.url, stdout=out)
    headings = [line for line in out.getvalue().splitlines() if not line.startswith(" ")]
    assert headings == [f"✓ {number}. {name}" for number, name in enumerate(NAMES, start=1)]
    cluster.workers[2].health_extra = {"healthy": False}
    out = StringIO()
    with pytest.raises(CommandError, match="1 of 6 checks failed: worker health"):
        call_command("diagnose", "--gateway", cluster.url, stdout=out)
    assert "✗ 3. worker health" in out.getvalue()
    assert "      → look at its log" in out.getvalue()


def test_a_dead_worker_is_named_with_the_command_that_starts_it(cluster: StubCluster) -> None:
    address = stop_worker(cluster, 1)
    cluster.rows["worker_2"] = {"connected": False}
    checks = diagnose(cluster.url)
    start = f"start it: python manage.py runnode {address.rpartition(':')[2]} worker_2"
    assert failing(checks) >= set(NAMES[:5])
    for name in ("process status", "port availability", "direct inference"):
        assert start in checks[name]["fix"]
    assert checks["port availability"]["detail"] == f"nothing listens on {address} (worker_2)"
    assert [line["ok"] for line in checks["port availability"]["lines"]] == [True, True, False, True]
    cluster.workers[1].server = StubServer(cluster.workers[1].handle)  # so that leaving the fixture can stop it


def test_no_gateway_checks_the_default_ports_and_says_how_to_start() -> None:
    out, err = StringIO(), StringIO()
    with closing(socket.socket()) as holder:  # at which nobody listens
        holder.bind(("127.0.0.1", 0))
        port = holder.getsockname()[1]
        with pytest.raises(CommandError):
            call_command("diagnose", "--json", "--gateway", f"127.0.0.1:{port}", stdout=out, stderr=err)
    checks = {check["check"]: check for check in json.loads(out.getvalue())}
    assert f"start it: python manage.py rungateway --port {port}" in checks["port availability"]["fix"]
    assert f"nothing listens on 127.0.0.1:{port} (gateway)" in checks["port availability"]["detail"]
    assert {"process status", "port availability", "gateway connectivity", "end-to-end inference"} <= failing(checks)
    lines = " ".join(line["detail"] for line in checks["port availability"]["lines"])
    assert all(f"127.0.0.1:{default}" in lines for default in (8001, 8002, 8003))
    assert "checking 127.0.0.1:8001" in err.getvalue()


def test_another_service_on_a_port_is_told_from_ours(cluster: StubCluster) -> None:
    with StubServer(lambda method, path, body: (404, "<h1>It works!</h1>")) as other:
        checks = diagnose(cluster.url, "--workers", other.url)
        ports = checks["port availability"]
        assert f"{other.address} (worker_1) is taken by another service: GET /health gave HTTP 404" in ports["detail"]
        assert "stop that service" in ports["fix"]
        assert failing(diagnose(other.url)) == set(NAMES)
    assert "the gateway does not know it" in checks["gateway connectivity"]["detail"]
    assert "HTTP 404" in checks["direct inference"]["detail"]


def test_a_gateway_on_a_workers_port_is_told(cluster: StubCluster) -> None:
    checks = diagnose(cluster.url, "--workers", cluster.url)
    assert "taken by another service: a gateway" in checks["port availability"]["detail"]


@pytest.mark.parametrize(
    ("greeting", "detail"),
    [(b"SSH-2.0-OpenSSH_9.6\r\n\r\n", "it does not speak HTTP"), (b"", "takes connections but does not answer")],
    ids=["another protocol", "silent"],
)
def test_a_port_that_does_not_answer_http(cluster: StubCluster, greeting: bytes, detail: str) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        taken = []

        def greet() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                taken.append(connection)
                connection.sendall(greeting)

        threading.Thread(target=greet, daemon=True).start()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        checks = diagnose(cluster.url, "--workers", address, timeout_s=PATIENCE_S if greeting else 1.0)
        listener.shutdown(socket.SHUT_RDWR)
    for connection in taken:
        connection.close()
    assert detail in checks["port availability"]["detail"]


@pytest.mark.parametrize(
    ("extra", "detail", "fix"),
    [
        ({"healthy": False}, "healthy is False", "restart"),
        ({"ready": False}, "not ready", "wait"),
        ({"draining": True, "ready": False}, "draining", "runnode"),
        ({"node_id": "worker_9"}, "calls itself 'worker_9', the gateway calls it 'worker_1'", "worker_1"),
    ],
)
def test_a_sick_worker(cluster: StubCluster, extra: dict[str, Any], detail: str, fix: str) -> None:
    cluster.workers[0].health_extra = extra
    checks = diagnose(cluster.url)
    assert failing(checks) == {"worker health"}
    assert detail in checks["worker health"]["detail"]
    assert fix in checks["worker health"]["fix"]


@pytest.mark.parametrize(
    ("row", "breaker", "detail", "fix"),
    [
        ({"connected": False, "last_error": "wrong token"}, {}, "no stream to it, last error: wrong token", "_TOKEN"),
        ({}, {"state": "OPEN", "retry_after_s": 17.2, "last_error": "timeout"}, "OPEN, last error: timeout", "in 17 s"),
        ({"isolated": True}, {"state": "OPEN", "retry_after_s": None}, "is isolated: it gets no requests", "end its"),
    ],
    ids=["no stream", "open breaker", "isolated"],
)  # fmt: skip
def test_a_worker_that_the_gateway_cannot_use(
    cluster: StubCluster, row: dict[str, Any], breaker: dict[str, Any], detail: str, fix: str
) -> None:
    cluster.rows["worker_3"], cluster.breakers["worker_3"] = row, breaker
    checks = diagnose(cluster.url)
    assert failing(checks) == {"gateway connectivity"}
    assert detail in checks["gateway connectivity"]["detail"]
    assert "worker_3" in checks["gateway connectivity"]["detail"]
    assert fix in checks["gateway connectivity"]["fix"]


@pytest.mark.parametrize(
    ("extra", "detail"),
    [
        ({"healthy": False, "routable_workers": 0}, "0 of 3 workers routable"),
        ({"config_error": "no such table"}, "last known configuration: no such table"),
        ({"total_workers": 0}, "no enabled worker"),
    ],
)
def test_an_unwell_gateway(cluster: StubCluster, extra: dict[str, Any], detail: str) -> None:
    cluster.health_extra = extra
    checks = diagnose(cluster.url)
    assert failing(checks) == {"gateway connectivity"}
    assert detail in checks["gateway connectivity"]["detail"]


def test_disabled_workers_are_left_alone_and_draining_ones_are_well(cluster: StubCluster) -> None:
    stop_worker(cluster, 1)
    cluster.rows["worker_2"] = {"enabled": False, "connected": False}
    cluster.rows["worker_3"] = {"draining": True, "routable": False}
    checks = diagnose(cluster.url)
    assert failing(checks) == set()
    assert "worker_2" not in json.dumps(checks["port availability"]) + json.dumps(checks["direct inference"])
    cluster.workers[1].server = StubServer(cluster.workers[1].handle)


UNLOADED = {"name": "linear", "state": "UNAVAILABLE", "reason": "unloaded", "default": True}
BROKEN = {**UNLOADED, "reason": "it is no ONNX file"}
LOADING = {**UNLOADED, "state": "LOADING", "reason": ""}
OTHER = {"name": "other", "state": "READY", "reason": "", "default": False}


@pytest.mark.parametrize(
    ("models", "default_model", "ok", "detail", "fix"),
    [
        ([UNLOADED], "", None, "'linear', the model of /infer, is unloaded", "load it"),
        ([LOADING], "", None, "is being loaded", "wait"),
        ([BROKEN, OTHER], "", False, "is not served: it is no ONNX file", "mend its file"),
        ([OTHER], "nope", False, "the model of /infer is 'nope', and this worker has: other", "to one of them"),
        (
            [OTHER, {**OTHER, "name": "more"}],
            "",
            None,
            "no model of /infer is set, and there are: more, other",
            "Tuning",
        ),
        ([], "", None, "it has no model", "MODEL_REPOSITORY"),
    ],
    ids=["unloaded", "loading", "broken", "no such model", "several", "none"],
)
def test_a_worker_without_the_model_of_infer(
    cluster: StubCluster,
    models: list[dict[str, Any]],
    default_model: str,
    ok: bool | None,
    detail: str,
    fix: str,
) -> None:
    for worker in cluster.workers:
        said = {"model": {}, "models": models, "settings": {"default_model": default_model}}
        worker.health_extra = {**said, "provider": ""}
        worker.fault = lambda body: (404, {"error": "not here", "code": "unknown_model"})
    checks = diagnose(cluster.url)
    assert (checks["worker health"]["ok"], detail in checks["worker health"]["detail"]) == (ok, True)
    assert fix in checks["worker health"]["fix"]
    assert checks["direct inference"]["ok"] is checks["end-to-end inference"]["ok"] is None
    assert failing(checks) == ({"worker health"} if ok is False else set())


def test_a_gateway_that_has_no_model_to_serve_is_well(cluster: StubCluster) -> None:
    cluster.health_extra = {"routable_workers": 0, "no_model": "unloaded: linear; load it"}
    check = diagnose(cluster.url)["gateway connectivity"]
    assert check["ok"] is True
    assert "is healthy, 0 of 3 routable: unloaded: linear" in check["detail"]


def test_a_check_of_unknowns_is_neither_well_nor_failed() -> None:
    check, states = Check("process status"), []
    for add in (lambda: check.unknown("far away"), lambda: check.good("near"), lambda: check.bad("broken", "mend it")):
        add()
        states.append(check.ok)
    assert states == [None, True, False]
    assert (check.as_dict()["detail"], check.as_dict()["fix"]) == ("broken", "mend it")
