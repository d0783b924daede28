"""The contract where the shared doors cannot show it: no worker that answers, and a model that pads nothing."""

import socket
from collections.abc import Iterator

import numpy as np
import pytest

from tests.support.cluster import Server
from tests.support.doors import Door, assert_error, fresh_values, lone_doors, wait_until_routable
from tests.support.onnx_models import linear, linear_weights


@pytest.fixture(scope="module", params=["none given", "one that is down"])
def lonely(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Door]]:
    # Held by a socket that does not listen: whoever connects is refused, and nobody else serves there meanwhile.
    with socket.socket() as down:
        down.bind(("127.0.0.1", 0))
        workers = [] if request.param == "none given" else [f"worker_1=127.0.0.1:{down.getsockname()[1]}"]
        with lone_doors(tmp_path_factory.mktemp("lonely"), workers) as running:
            yield running
            assert all("Traceback" not in door.server.log for door in running.values())


@pytest.mark.parametrize("name", ["gateway", "gateway-django"])
def test_no_worker_is_503_with_retry_after(lonely: dict[str, Door], name: str):
    reply = lonely[name].infer([1.0], "asked for")
    content = assert_error(reply, 503, "asked for")
    assert int(reply.headers["retry-after"]) >= 1
    assert "worker" in content["error"]
    # What is the client's own fault is so still.
    assert_error(lonely[name].post(b"{"), 400)


@pytest.mark.parametrize("name", ["gateway", "gateway-django"])
def test_a_gateway_without_workers_says_so(lonely: dict[str, Door], name: str):
    reply = lonely[name].ask("GET", "/health")
    assert (reply.status, reply.json["healthy"], reply.json["routable_workers"]) == (503, False, 0)
    assert lonely[name].ask("GET", "/livez").status == 200
    assert lonely[name].ask("GET", "/stats").status == 200


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Door]]:
    """Doors to a model of four values whose record says nothing of padding, for there is none."""
    directory = tmp_path_factory.mktemp("strict")
    model = linear(directory / "linear.onnx")
    with Server.worker(directory / "worker", "linear_1", str(model)) as worker:
        worker.wait_ready()
        with lone_doors(directory, [worker.url.removeprefix("http://")]) as running:
            for door in running.values():
                wait_until_routable(door, 1)
            yield {**running, "worker": Door("worker", worker.url, True, False, frozenset({"linear_1"}), worker)}
            assert "Traceback" not in worker.log


@pytest.mark.parametrize("name", ["gateway", "gateway-django", "worker"])
@pytest.mark.parametrize("count", [0, 1, 3, 5, 1000])
def test_another_count_is_422_without_padding(strict: dict[str, Door], name: str, count: int):
    content = assert_error(strict[name].infer([1.0] * count, "counted"), 422, "counted")
    assert f"{count} values" in content["error"]
    assert "4" in content["error"]


@pytest.mark.parametrize("name", ["gateway", "gateway-django", "worker"])
def test_the_right_count_is_answered(strict: dict[str, Door], name: str):
    values = fresh_values(4)
    weights, bias = linear_weights()
    reply = strict[name].infer(values)
    assert reply.status == 200
    assert reply.json["node_id"] == reply.headers["x-node"] == "linear_1"
    expected = np.array(values, np.float32) @ weights + bias
    np.testing.assert_allclose(reply.json["output_data"], expected, rtol=1e-5, atol=1e-5)
