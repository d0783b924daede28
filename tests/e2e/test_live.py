"""Open pages of a real gateway: what happens is told at once, and a stop waits for none of them."""

import json
import random
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin

from tests.support.cluster import Cluster, Server
from tests.support.http import request
from tests.support.processes import wait_until
from tests.support.waiting import PATIENCE_S


def page(url: str) -> ClientConnection:
    address = url.replace("http", "ws", 1) + "/live"
    return connect(address, origin=Origin(url), max_size=None, open_timeout=PATIENCE_S)


def hear(listener: ClientConnection) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(listener.recv(timeout=PATIENCE_S))
    return found


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("cluster"), calm=True) as running:
        running.wait_until_connected()
        yield running


def where(cluster: Cluster, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    status, answer = request("POST", f"{cluster.gateway_url}/where", json.dumps(body).encode())
    return status, json.loads(answer)


def test_inputs_go_where_it_was_said(cluster: Cluster) -> None:
    ring = cluster.get("/ring")
    chance = random.Random(3)
    owners = set()
    for _ in range(200):
        values = [chance.random() for _ in range(8)]
        status, told = where(cluster, {"input_data": values})
        assert status == 200
        assert (told["now"], told["why"], told["kept"]) == (told["owner"], "owner; its breaker is closed", False)
        assert [told["owner"], *told["successors"]] == sorted(
            cluster.names, key=[told["owner"], *told["successors"]].index
        )
        if told["slot"] % 64 == 0:
            assert ring["workers"][ring["owners"][told["slot"] // 64]] == told["owner"]
        assert cluster.infer(values)[1]["node_id"] == told["now"]
        owners.add(told["owner"])
    assert owners == set(cluster.names)
    assert len(ring["owners"]) == 1024
    assert sum(ring["shares"].values()) == pytest.approx(1.0, abs=0.001)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "empty_body"),
        (b"[1]", "invalid_body"),
        (b'{"input_data": 3}', "invalid_input_data"),
        (b"{}", "missing_input_data"),
        (b'{"input_data": [1', "invalid_json"),
        (b'{"input_data": [1], "model": 3}', "invalid_model"),
        (b'{"input_data": [1], "request_id": 3}', "invalid_request_id"),
        (b'{"input_data": ' + b"[" * 5000, "nested_too_deep"),
    ],
)
def test_what_has_no_place_is_refused_as_an_inference_is(cluster: Cluster, body: bytes, code: str) -> None:
    status, answer = request("POST", f"{cluster.gateway_url}/where", body)
    assert (status, json.loads(answer)["code"]) == (400, code)


def test_an_unknown_model_has_no_place(cluster: Cluster) -> None:
    status, answer = where(cluster, {"input_data": [1], "model": "nobody"})
    assert (status, answer["code"]) == (404, "unknown_model")


def is_lost(stats: dict[str, Any], name: str) -> bool:
    """Whether the page shows a worker as gone, and says so among the events."""
    away = [each["name"] for each in stats["workers"] if not each["connected"]]
    told = [each["after"] for each in stats["events"] if (each["kind"], each["worker"]) == ("worker", name)]
    return away == [name] and told[-1:] == ["lost"]


def until_it_ends(listener: ClientConnection) -> None:
    while True:
        hear(listener)


def test_a_page_sees_requests_a_kill_and_the_return(cluster: Cluster) -> None:
    with page(cluster.gateway_url) as listener:
        first = hear(listener)
        assert first["type"] == "start"
        assert first["history"]["step_s"] == 1
        asked = first["stats"]["gateway"]["requests"]
        for number in range(20):
            cluster.infer([float(number), 77.0])
        while hear(listener)["stats"]["gateway"]["requests"] < asked + 20:
            pass
        with cluster.unattended():
            cluster.kill_worker(1)
            while not is_lost(hear(listener)["stats"], "worker_2"):
                pass
        while not all(each["connected"] for each in hear(listener)["stats"]["workers"]):
            pass
    history = cluster.get("/history")["points"]
    assert any(point["rate"] for point in history)
    assert len({point["t"] for point in history}) == len(history)


def test_figures_come_second_by_second_each_with_a_new_point(cluster: Cluster) -> None:
    """Nothing happens meanwhile that would be told at once."""
    points: list[float] = []
    with page(cluster.gateway_url) as listener:
        hear(listener)
        while len(set(points)) < 3:
            points.append(hear(listener)["stats"]["point"]["t"])
    assert points == sorted(points)


def test_a_stop_sends_pages_away_and_waits_for_none(tmp_path: Path) -> None:
    """A gateway that is itself held up at its end may wait for the last one: not time after time."""
    assert any(stops_without_waiting(tmp_path) for _ in range(3))


def stops_without_waiting(directory: Path) -> bool:
    """Whether a gateway did not have to end the connections of its pages by force."""
    with Server.gateway(directory) as server:
        server.wait_ready()
        port = int(server.url.rpartition(":")[2])
        with page(server.url) as listener, socket.create_connection(("127.0.0.1", port)) as deaf:
            deaf.sendall(
                b"GET /live HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
            )
            hear(listener)
            server.process.terminate()
            with pytest.raises(ConnectionClosed) as closed:
                until_it_ends(listener)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1012
            wait_until("the gateway has ended", lambda: server.process.poll() is not None)
        assert server.process.returncode == 0
        assert "Traceback" not in server.log
        return "graceful shutdown exceeded" not in server.log
