"""A drain in a process that stalls: its own stall is not held against those whom it has still to answer."""

import asyncio
import socket
import time

import pytest

from inference_site import lifecycle
from inference_site.asgi import application
from inference_site.hotpath import HotProtocol
from inference_site.lifecycle import Service
from inference_site.server import Server
from tests.support.waiting import PATIENCE_S


class Busy(Service):
    """Has something under way that is done when it is looked at for the third time."""

    looks = 0

    def drain(self) -> None:
        """The process stalls here for longer than the drain may take."""
        time.sleep(1.5)

    @property
    def busy(self) -> bool:
        self.looks += 1
        return self.looks < 3


async def test_what_is_under_way_when_a_process_stalls_is_still_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    import uvicorn

    service = Busy()
    monkeypatch.setattr(lifecycle, "_service", service)
    server = Server(uvicorn.Config(application, http=HotProtocol, log_config=None))
    server.started = True
    server.servers = []
    with socket.socket() as listener:
        server._listeners = [listener.dup()]
        server.begin_drain(0, 1.0)
        assert server._drain is not None
        await asyncio.wait_for(server._drain, PATIENCE_S)
    assert (service.looks, server.should_exit) == (3, True)
