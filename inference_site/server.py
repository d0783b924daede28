"""How uvicorn is started: loop, limits, the data plane's protocol, and a stop that loses nothing."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator
from types import FrameType

import uvicorn
from django.conf import settings

from inference_site import lifecycle
from inference_site.hotpath import HotProtocol, Seconds
from inference_site.lib.frames import BULK_BYTES, MESSAGE_BYTES

logger = logging.getLogger(__name__)

# While a process drains it goes on answering for this long, so that clients with an open connection hear of it.
GRACE_S = 1.0
DRAIN_S = 5.0


class Server(uvicorn.Server):
    """uvicorn's server with a drain before its own shutdown, and exit status 0 after a signal."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._drain: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """uvicorn: begin to serve."""
        await super().startup(sockets)
        parent = os.environ.get("INFERENCE_PARENT_FD")
        if parent is not None:
            asyncio.get_running_loop().add_reader(int(parent), self._parent_gone, int(parent))

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """uvicorn: a signal drains, a second Ctrl-C ends at once; none is raised again afterwards."""
        self._loop = asyncio.get_running_loop()
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, self.handle_exit)
        try:
            yield
        finally:
            # The process ends with this server: a signal that comes late must not turn its status 0 into a failure.
            for each in (signal.SIGINT, signal.SIGTERM):
                signal.signal(each, signal.SIG_IGN)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal has come. TERM may well come twice: from a supervisor, and from who stops the whole group."""
        if sig == signal.SIGINT and self._drain is not None:
            self.should_exit = self.force_exit = True
        else:
            self._loop.call_soon_threadsafe(self.begin_drain)

    def begin_drain(self) -> None:
        """Stops serving in good order."""
        if self._drain is None:
            self._drain = asyncio.get_running_loop().create_task(self._drain_and_exit())

    async def on_tick(self, counter: int) -> bool:
        """uvicorn: called ten times a second."""
        if counter % 10 == 0:
            Seconds.now += 1
            for connection in list(self.server_state.connections):
                if isinstance(connection, HotProtocol):
                    connection.check_age()
        return await super().on_tick(counter)

    async def _drain_and_exit(self) -> None:
        # Whoever connects from now on waits for the next process, if a supervisor holds the socket too.
        for server in self.servers:
            server.close()
        try:
            await lifecycle.drain(GRACE_S, DRAIN_S, self._busy)
        finally:
            self.should_exit = True

    def _busy(self) -> bool:
        """Whether a client is still waiting for an answer."""
        return any(
            not connection.idle for connection in self.server_state.connections if isinstance(connection, HotProtocol)
        )

    def _parent_gone(self, parent: int) -> None:
        asyncio.get_running_loop().remove_reader(parent)
        logger.warning("the supervisor has gone, so this process stops too")
        self.begin_drain()


def serve(sock: socket.socket) -> None:
    """Serves this process's mode on a listening socket until it is told to stop. Returns after a clean stop."""
    sys.setswitchinterval(0.0005)  # a page that a thread renders must not hold up the data plane for 5 ms at a time
    HotProtocol.plane = lifecycle.plane()
    HotProtocol.leaves_all_to_django = settings.DATA_PLANE == "django"
    HotProtocol.max_body_bytes = settings.MAX_BODY_BYTES
    config = uvicorn.Config(
        "inference_site.asgi:application",
        http=HotProtocol,
        ws="websockets-sansio",
        ws_max_size=settings.MAX_BODY_BYTES + MESSAGE_BYTES + BULK_BYTES + 2**16,
        ws_per_message_deflate=False,
        loop="uvloop",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=2048,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=3,
    )
    Server(config).run(sockets=[sock])
