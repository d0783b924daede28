"""The parts of uvicorn that the hot path leans on, which are not public: a new version has to be looked at first."""

import asyncio
import inspect
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httptools
import pytest
import uvicorn
from uvicorn.protocols.http import flow_control
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import Server, ServerState

REQUIREMENTS = (Path(__file__).resolve().parents[2] / "requirements.txt").read_text()
METHODS = {
    "connection_made": ["transport"],
    "connection_lost": ["exc"],
    "data_received": ["data"],
    "eof_received": [],
    "shutdown": [],
    "send_400_response": ["msg"],
    "on_message_begin": [],
    "on_headers_complete": [],
    "on_body": ["body"],
    "on_message_complete": [],
    "on_response_complete": [],
    "_start_asgi_task": ["cycle", "app"],
    "_unset_keepalive_if_required": [],
}


@pytest.mark.parametrize("package", ["uvicorn", "httptools"])
def test_the_exact_version_is_pinned_and_installed(package: str):
    pinned = re.search(rf"^{package}==(\S+)$", REQUIREMENTS, re.MULTILINE)
    assert pinned is not None, f"requirements.txt must pin {package} exactly"
    assert version(package) == pinned.group(1), "run pip install -r requirements.txt"


@pytest.mark.parametrize("name", METHODS)
def test_methods_that_are_overridden_or_called(name: str):
    found = inspect.signature(getattr(HttpToolsProtocol, name))
    assert list(found.parameters)[1:] == METHODS[name]


async def test_attributes_of_a_connection():
    config = uvicorn.Config(lambda: None, http="httptools", ws="websockets-sansio", lifespan="off", log_config=None)
    protocol: Any = HttpToolsProtocol(config, ServerState(), {}, asyncio.get_running_loop())
    assert isinstance(protocol.parser, httptools.HttpRequestParser)
    assert protocol.cycle is None
    assert protocol.timeout_keep_alive_task is None
    assert len(protocol.pipeline) == 0
    assert protocol.loop is asyncio.get_running_loop()
    for name in ("transport", "flow", "headers", "expect_100_continue", "connections", "server_state"):
        assert hasattr(protocol, name), name
    protocol.on_message_begin()
    assert (protocol.url, protocol.headers) == (b"", [])
    for name in ("get_method", "get_http_version", "should_keep_alive", "should_upgrade"):
        assert callable(getattr(protocol.parser, name)), name


def test_attributes_of_a_request():
    source = inspect.getsource(RequestResponseCycle.__init__)
    for name in ("disconnected", "keep_alive", "response_started", "response_complete", "message_event"):
        assert f"self.{name} = " in source, name
    # A queued cycle and its application, taken from the right; the newest is put in on the left.
    assert "self.pipeline.appendleft((self.cycle, app))" in inspect.getsource(HttpToolsProtocol.on_headers_complete)
    assert "cycle, app = self.pipeline.pop()" in inspect.getsource(HttpToolsProtocol.on_response_complete)


def test_flow_control():
    flow = flow_control.FlowControl(asyncio.Transport())
    assert flow.read_paused is False
    assert flow.write_paused is False
    assert callable(flow.pause_reading)
    assert callable(flow.resume_reading)


def test_the_server():
    state = ServerState()
    assert (state.total_requests, state.connections, state.default_headers) == (0, set(), [])
    # The header lines are encoded again when this list is another one: it must be replaced, not changed.
    assert "self.server_state.default_headers = date_header + " in inspect.getsource(Server.on_tick)
    for name, parameters in {
        "startup": ["sockets"], "capture_signals": [], "handle_exit": ["sig", "frame"], "on_tick": ["counter"],
    }.items():  # fmt: skip
        assert list(inspect.signature(getattr(Server, name)).parameters)[1:] == parameters
    assert "on_tick(counter)" in inspect.getsource(Server.main_loop)
    assert "asyncio.sleep(0.1)" in inspect.getsource(Server.main_loop)  # ten ticks are the second of the timeouts
