"""A bug of ours is answered and logged; it ends neither the connection nor the process."""

from __future__ import annotations

from typing import Any

import pytest

from tests.inference_site.v2.test_wire import FP32, assert_v2_error, json_body
from tests.support.v2_server import V2Server
from tests.support.wire import request


def fail(*_: Any) -> Any:
    raise RuntimeError("as if there were a bug")


async def fail_later(*_: Any) -> None:
    fail()


@pytest.mark.parametrize(
    ("member", "bug", "method", "path"),
    [
        ("find", fail, "POST", FP32),
        ("find", fail, "GET", "/v2/models/fp32"),
        ("models", fail, "POST", "/v2/repository/index"),
        ("statistics", fail, "GET", "/v2/models/stats"),
        ("load", fail_later, "POST", "/v2/repository/models/fp32/load"),
    ],
)
def test_a_bug_is_500_and_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, member: str, bug: Any, method: str, path: str
):
    with V2Server() as server, server.connect() as client:
        body = json_body() if method == "POST" and path == FP32 else None
        for _ in range(2):
            with monkeypatch.context() as patched:
                patched.setattr(server.v2, member, bug)
                assert_v2_error(client.ask(request(method, path, body)), 500, "internal_error")
        assert client.ask(request(method, path, body)).status == 200
        assert server.errors == []
    assert "as if there were a bug" in caplog.text
