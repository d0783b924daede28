"""diagnose says what is wrong and what mends it: against a stub cluster with one fault at a time."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError

from gateway_app.diagnosis.findings import Check
from gateway_app.diagnosis.inference import difference
from gateway_app.diagnosis.processes import Process, find_processes, is_this_machine
from gateway_app.probe import base_url, input_values, output_values, worker_url
from tests.support.stub_cluster import StubCluster, StubServer, model

NAMES = [
    "process status", "port availability", "worker health",
    "gateway connectivity", "direct inference", "end-to-end inference",
]  # fmt: skip


@pytest.fixture
def cluster() -> Iterator[StubCluster]:
    with StubCluster() as stub:
        yield stub


def diagnose(gateway: str, *arguments: str) -> dict[str, dict[str, Any]]:
    """The checks by name; the exit status must agree with them."""
    out = StringIO()
    failed = False
    try:
        call_command("diagnose", "--json", "--gateway", gateway, "--timeout", "1", *arguments, stdout=out, stderr=out)
    except CommandError:
        failed = True
    checks = json.loads(out.getvalue().splitlines()[-1])
    assert [check["check"] for check in checks] == NAMES
    assert failed == any(check["ok"] is False for check in checks)
    return {check["check"]: check for check in checks}


def failing(checks: dict[str, dict[str, Any]]) -> set[str]:
    return {name for name, check in checks.items() if check["ok"] is False}


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
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
    out, err = StringIO(), StringIO()
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
        checks = diagnose(cluster.url, "--workers", f"127.0.0.1:{listener.getsockname()[1]}")
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


def answered(change: dict[str, Any]) -> Callable[[dict[str, Any]], Any]:
    def fault(body: dict[str, Any]) -> Any:
        good = {"request_id": body["request_id"], "output_data": model(body["input_data"]), "node_id": "worker_1"}
        return 200, {**good, "cached": True, "inference_time_us": 1, **change}

    return fault


@pytest.mark.parametrize(
    ("change", "detail"),
    [
        ({"output_data": [1.0, float("nan")]}, "nan, which is no finite number"),
        ({"output_data": [1.0, "2"]}, "'2', which is no finite number"),
        ({"output_data": [1.0]}, "output_data has 1 values, the model answers 2"),
        ({"output_data": []}, "not a list of numbers"),
        ({"request_id": "another"}, "got 'another'"),
    ],
)
def test_a_worker_that_answers_wrongly(cluster: StubCluster, change: dict[str, Any], detail: str) -> None:
    cluster.workers[1].fault = answered(change)
    checks = diagnose(cluster.url)
    assert failing(checks) == {"direct inference"}
    assert detail in checks["direct inference"]["detail"]
    assert "worker_2" in checks["direct inference"]["detail"]


def test_workers_that_disagree(cluster: StubCluster) -> None:
    cluster.workers[2].fault = answered({"output_data": [1000.0, 1000.0]})
    checks = diagnose(cluster.url)
    assert failing(checks) == {"direct inference"}
    assert "otherwise than worker_1" in checks["direct inference"]["detail"]
    assert "MODEL_PATH" in checks["direct inference"]["fix"]


@pytest.mark.parametrize(
    ("fault", "detail"),
    [
        (lambda body: (503, {"error": "no worker can take it"}), "HTTP 503: no worker can take it"),
        (answered({"output_data": [1000.0, 1000.0]}), "apart from what a worker answered directly"),
        (answered({"cached": False}), "was not cached"),
    ],
    ids=["refuses", "differs", "forgets"],
)
def test_a_gateway_that_answers_wrongly(cluster: StubCluster, fault: Callable[..., Any], detail: str) -> None:
    cluster.fault = fault
    checks = diagnose(cluster.url)
    assert failing(checks) == {"end-to-end inference"}
    assert detail in checks["end-to-end inference"]["detail"]


def test_a_second_answer_that_differs(cluster: StubCluster) -> None:
    cluster.fault = lambda body: answered({"output_data": [9e3, 9e3]})(body) if cluster.asked == 2 else None
    assert "otherwise the second time" in diagnose(cluster.url)["end-to-end inference"]["detail"]


def test_a_cache_that_is_switched_off_is_no_failure(cluster: StubCluster) -> None:
    for worker in cluster.workers:
        worker.remembers = False
    checks = diagnose(cluster.url)
    assert failing(checks) == set()
    assert "cache is set to 0" in checks["end-to-end inference"]["detail"]


def described(
    cluster: StubCluster, answer: Callable[[dict[str, Any]], Any], remembers: bool = True, **members: Any
) -> list[dict[str, Any]]:
    """All workers describe their model so, and `answer` gives output_data, or None to refuse; with what they get."""
    asked: list[dict[str, Any]] = []
    kept: set[str] = set()

    def infer(body: dict[str, Any]) -> Any:
        question = {name: value for name, value in body.items() if name != "request_id"}
        asked.append(question)
        output = answer(question)
        if output is None:
            return 422, {"error": "not this", "code": "wrong_shape"}
        cached = remembers and json.dumps(question) in kept
        kept.add(json.dumps(question))
        told = {"request_id": body["request_id"], "output_data": output, "node_id": "worker_1"}
        return 200, {**told, "cached": cached, "inference_time_us": 1}

    model = {"name": "m", "input_shape": ["batch", "n"], "batches": True, "output": "y", **members}
    for worker in cluster.workers:
        worker.health_extra = {"model": model}
        worker.fault = infer
    handle = cluster.server.handle_json
    cluster.server.handle_json = lambda method, path, body: (
        infer(body) if path == "/infer" else handle(method, path, body)
    )
    return asked


def test_a_model_of_several_inputs_is_asked_by_name_in_sizes_that_it_takes(cluster: StubCluster) -> None:
    inputs = [
        {"name": "input_ids", "datatype": "INT64", "shape": [-1, -1]},
        {"name": "attention_mask", "datatype": "INT64", "shape": [-1, -1]},
        {"name": "weights", "datatype": "FP32", "shape": [-1, 2, 3]},
    ]
    asked = described(cluster, lambda body: [0.5] if len(body["inputs"]["input_ids"]) == 16 else None, inputs=inputs)
    checks = diagnose(cluster.url)
    assert failing(checks) == set()
    assert checks["end-to-end inference"]["ok"] is True
    sent = asked[-1]["inputs"]
    assert [len(sent[name]) for name in ("input_ids", "attention_mask")] == [16, 16]
    assert set(sent["attention_mask"]) == {1}
    assert set(sent["input_ids"]) <= set(range(10))
    assert [len(row) for row in sent["weights"]] == [3, 3]
    assert len(asked) == 1 + 3 + 2  # a length that it does not take; then each worker, and twice the gateway


def test_a_model_that_answers_text(cluster: StubCluster) -> None:
    inputs = [{"name": "text", "datatype": "BYTES", "shape": [-1, 1]}]
    outputs = [{"name": "y", "datatype": "BYTES", "shape": [-1, 1]}]
    asked = described(cluster, lambda body: ["label " + body["inputs"]["text"][0]], inputs=inputs, outputs=outputs)
    checks = diagnose(cluster.url)
    assert failing(checks) == set()
    assert "1 texts" in checks["direct inference"]["detail"]
    assert asked[0]["inputs"]["text"][0].isdigit()
    described(cluster, lambda body: ["other"], inputs=inputs)  # text that no output of it is
    assert "'other', which is no finite number" in diagnose(cluster.url)["direct inference"]["detail"]


def test_a_model_that_answers_true_and_false(cluster: StubCluster) -> None:
    inputs = [{"name": "x", "datatype": "FP32", "shape": [-1, 3]}]
    outputs = [{"name": "y", "datatype": "BOOL", "shape": [-1, 3]}]
    described(cluster, lambda body: [True, False, True], inputs=inputs, outputs=outputs)
    checks = diagnose(cluster.url)
    assert failing(checks) == set()
    assert "3 values of true or false" in checks["direct inference"]["detail"]
    described(cluster, lambda body: [True, False, True], inputs=inputs)
    assert "True, which is no finite number" in diagnose(cluster.url)["direct inference"]["detail"]


def test_a_model_that_takes_nothing_that_was_tried_is_not_checked(cluster: StubCluster) -> None:
    described(cluster, lambda body: None, inputs=[{"name": "x", "datatype": "FP32", "shape": [-1, -1]}])
    checks = diagnose(cluster.url)
    assert failing(checks) == set()
    for name in ("direct inference", "end-to-end inference"):
        assert checks[name]["ok"] is None
        assert "takes no input that was tried: POST /infer gave HTTP 422: not this" in checks[name]["detail"]


def test_a_model_whose_results_are_not_kept_may_answer_otherwise(
    cluster: StubCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = iter(range(1, 100))
    inputs = [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]
    described(cluster, lambda body: [next(numbers)], False, inputs=inputs)
    assert failing(diagnose(cluster.url)) == {"direct inference", "end-to-end inference"}
    stats = cluster.stats
    models = [{"name": "n", "cached": True}, {"name": "m", "cached": False, "default": True}]
    monkeypatch.setattr(cluster, "stats", lambda: {**stats(), "models": models})
    checks = diagnose(cluster.url)
    assert failing(checks) == set()
    assert "results are not kept" in checks["end-to-end inference"]["detail"]


def test_a_model_whose_answers_are_random_is_told_from_workers_with_other_files(cluster: StubCluster) -> None:
    numbers = iter(range(1, 100))
    inputs = [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]
    described(cluster, lambda body: [next(numbers)], False, inputs=inputs, digest="ab")
    checks = diagnose(cluster.url)
    for name in ("direct inference", "end-to-end inference"):
        assert 'set "keep results" of it to No' in checks[name]["fix"]
        assert "MODEL_PATH" not in checks[name]["fix"]


def test_a_model_that_answers_nan(cluster: StubCluster) -> None:
    described(cluster, lambda body: [1.0, None], inputs=[{"name": "x", "datatype": "FP32", "shape": [-1, 4]}])
    check = diagnose(cluster.url)["direct inference"]
    assert "answers NaN or infinity" in check["detail"]
    assert "diagnose --model" in check["fix"]
    assert "log" not in check["fix"]


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


def test_processes_are_found_by_the_port_they_listen_on(tmp_path: Path) -> None:
    listen = "import socket, time; s = socket.create_server(('127.0.0.1', 0))"
    (tmp_path / "manage.py").write_text(f"{listen}; print(s.getsockname()[1], flush=True); time.sleep(60)")
    commands = [["runnode", "8001", "worker_1"], ["rungateway", "--fd", "3"], ["runcluster"], ["shell"]]
    started = [
        subprocess.Popen([sys.executable, "manage.py", *rest], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
        for rest in commands
    ]
    try:
        ports = [int(process.stdout.readline()) for process in started if process.stdout]
        found = find_processes(project=tmp_path)
        assert found is not None
        assert {(process.pid, process.role, process.ports) for process in found} == {
            (started[0].pid, "worker", frozenset({ports[0]})),
            (started[1].pid, "gateway", frozenset({ports[1]})),
            (started[2].pid, "supervisor", frozenset({ports[2]})),
        }
        assert not {process.pid for process in find_processes(project=tmp_path / "elsewhere") or []} & {
            process.pid for process in started
        }
    finally:
        for process in started:
            process.send_signal(signal.SIGKILL)
            process.communicate()


def fake_process(proc: Path, pid: int, cwd: Path, *arguments: str) -> None:
    (proc / str(pid)).mkdir(parents=True)
    (proc / str(pid) / "cmdline").write_bytes("".join(f"{argument}\0" for argument in arguments).encode())
    (proc / str(pid) / "cwd").symlink_to(cwd)
    (proc / str(pid) / "fd").mkdir()


def test_processes_of_other_projects_and_zombies_are_not_ours(tmp_path: Path) -> None:
    proc, ours, other = tmp_path / "proc", tmp_path / "ours", tmp_path / "other"
    (proc / "self").mkdir(parents=True)
    (proc / "self" / "cmdline").touch()
    fake_process(proc, 10, ours, "python", "manage.py", "runnode", "8001", "worker_1")
    fake_process(proc, 11, other, "python", "manage.py", "runnode", "8001", "worker_1")
    fake_process(proc, 12, other, "python", str(ours / "manage.py"), "rungateway")
    fake_process(proc, 13, ours)
    fake_process(proc, 14, ours, "vi", "runnode.py")
    fake_process(proc, 15, ours, "daphne", "inference_site.asgi:application")
    (proc / "net").mkdir()
    (proc / "net" / "tcp").write_text(
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
        "   0: 0100007F:1F41 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1\n"
        "   1: 0100007F:1F42 0100007F:9999 01 00000000:00000000 00:00000000 00000000     0        0 4712 1\n"
    )
    for number, inode in ((3, 4711), (4, 4712)):
        os.symlink(f"socket:[{inode}]", proc / "10" / "fd" / str(number))  # noqa: PTH211 - no path, a socket's name
    found = find_processes(proc, ours)
    assert [(process.pid, process.role, process.ports) for process in found or []] == [
        (10, "worker", frozenset({8001})),  # the listening socket, not the connection
        (12, "gateway", frozenset()),
        (15, "gateway", frozenset()),
    ]
    assert find_processes(tmp_path / "no proc", ours) is None


def test_what_is_another_machines_is_not_checked(monkeypatch: pytest.MonkeyPatch, cluster: StubCluster) -> None:
    assert is_this_machine("127.0.0.1")
    assert not is_this_machine("192.0.2.1")
    assert not is_this_machine("no-such-host.invalid")
    monkeypatch.setattr("gateway_app.diagnosis.reachability.is_this_machine", lambda host: False)
    status = diagnose(cluster.url)["process status"]
    assert status["ok"] is None
    assert "not checked: gateway" in status["detail"]
    assert failing(diagnose(cluster.url)) == set()


def test_a_listening_supervisor_without_its_child_is_told(
    monkeypatch: pytest.MonkeyPatch, cluster: StubCluster
) -> None:
    port = int(cluster.workers[0].server.address.rpartition(":")[2])
    cluster.workers[0].server.handle_json = lambda method, path, body: (500, "")
    processes = [Process(77, "supervisor", frozenset({port}))]
    monkeypatch.setattr("gateway_app.diagnosis.reachability.find_processes", lambda: processes)
    status = diagnose(cluster.url)["process status"]
    assert "its supervisor (pid 77) is" in status["detail"]
    assert "runcluster restarts it" in status["fix"]


@pytest.mark.parametrize(
    ("model_record", "inputs", "outputs"),
    [
        ({"input_shape": ["batch", 64], "output_shape": ["batch", 10], "batches": True}, 64, 10),
        ({"input_shape": [-1, 3, 4], "output_shape": [-1, "n"]}, 12, None),
        ({"input_shape": [1, 64], "output_shape": [1, 10], "batches": False}, 64, 10),
        ({"input_shape": ["batch", "length"], "output_shape": ["batch"]}, 1, 1),
        ({"input_shape": None}, None, None),
        ({}, None, None),
    ],
)
def test_sizes_of_a_model(model_record: dict[str, Any], inputs: int | None, outputs: int | None) -> None:
    health = {"model": model_record}
    assert (input_values(health), output_values(health)) == (inputs, outputs)
    assert input_values(None) is None


@pytest.mark.parametrize(
    ("address", "gateway", "url"),
    [
        ("127.0.0.1:8001", "http://127.0.0.1:8000", "http://127.0.0.1:8001"),
        ("127.0.0.1:8001", "http://10.0.0.5:8000", "http://10.0.0.5:8001"),
        ("localhost:8001", "http://[fd00::5]:8000", "http://[fd00::5]:8001"),
        ("10.0.0.7:8001", "http://10.0.0.5:8000", "http://10.0.0.7:8001"),
    ],
)
def test_a_workers_loopback_is_the_gateways_host(address: str, gateway: str, url: str) -> None:
    assert worker_url(address, gateway) == url


def test_addresses() -> None:
    assert base_url("here:8000/") == "http://here:8000"
    for bad in ("", "http://", "ws://here", "here:port"):
        with pytest.raises(ValueError, match="is not an address"):
            base_url(bad)
    with pytest.raises(CommandError, match="'ws://here' is not an address"):
        call_command("diagnose", "--workers", "ws://here")
    with pytest.raises(CommandError, match="--timeout 0"):
        call_command("diagnose", "--timeout", "0")


def test_difference_is_relative_for_large_values() -> None:
    assert difference([1e6, 0.5], [1e6 + 1, 0.5]) < 1e-5
    assert difference([0.5], [0.5001]) > 1e-5
    assert difference([1.0], [1.0, 2.0]) == float("inf")
