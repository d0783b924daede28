"""diagnose's inferences: answers that are wrong, and models that take and answer other things than numbers."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from gateway_app.diagnosis.inference import difference
from tests.gateway_app.diagnosis.diagnosing import diagnose, failing
from tests.support.stub_cluster import StubCluster, model


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


def test_difference_is_relative_for_large_values() -> None:
    assert difference([1e6, 0.5], [1e6 + 1, 0.5]) < 1e-5
    assert difference([0.5], [0.5001]) > 1e-5
    assert difference([1.0], [1.0, 2.0]) == float("inf")
