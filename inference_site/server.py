"""How uvicorn is started: loop, limits, the data plane's protocol, and a stop that loses nothing."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Iterator
from importlib import import_module
from types import FrameType

import uvicorn
from django.conf import settings

from inference_site import lifecycle
from inference_site.backlog import take_no_more
from inference_site.hotpath import HotProtocol, Seconds
from inference_site.lib.frames import BULK_BYTES, MESSAGE_BYTES
from inference_site.parent import DRAIN, DRAINING, LAST, READY, SUCCEED, Parent
from inference_site.patience import Patience
from inference_site.streaming import StreamProtocol
from inference_site.v2.rest import Rest

logger = logging.getLogger(__name__)

# Without a supervisor that says otherwise: connections are still accepted for this long after readiness has dropped,
# and this long after it everything is let go.
GRACE_S, DRAIN_S = 1.0, 5.0
# Who has connected before that may take this long to send something, or to hear that the connection ends.
LINGER_S = 1.0
# Who is in the middle of connecting when nobody new gets in any more has done so by then.
HANDSHAKE_S = 0.05
BACKLOG = 2048
# Nobody has anything to say on a gateway's WebSockets; a longer message ends the connection.
SILENT_BYTES = 1024


class Server(uvicorn.Server):
    """uvicorn's server with a drain before its own shutdown, and exit status 0 after a signal."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._drain: asyncio.Task[None] | None = None
        self._parent = Parent()
        self._accept_until = 0.0
        self._patience = Patience(0)  # with who is in the middle of something when it drains
        self._last = self._parent.socket is None  # to accept on its socket: no other process is to serve there
        self._listeners: list[socket.socket] = []

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """uvicorn: from start to end."""
        await super().serve(sockets)
        # Threads that wait for a database that is away would hold up the end of the process; nothing is left to do.
        logging.shutdown()
        os._exit(0)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """uvicorn: begin to serve."""
        for each in sockets or ():
            each.setblocking(False)  # before it is copied: the flag is shared, by all processes that have the socket
            self._listeners.append(each.dup())
        self._obey()
        await super().startup(sockets)
        if self._parent.socket is not None:
            asyncio.get_running_loop().add_reader(self._parent.socket, self._obey)
        self._parent.say(READY)

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
            self._loop.call_soon_threadsafe(self._told_to_stop)

    def _told_to_stop(self) -> None:
        if self._drain is None:
            self.begin_drain()

    def begin_drain(self, accept_s: float = GRACE_S, end_s: float = DRAIN_S) -> None:
        """Stops serving in good order, or goes on with that by other limits."""
        self._accept_until, self._patience = time.monotonic() + accept_s, Patience(end_s)
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

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """uvicorn: the end. Whoever is still in the middle of something by now is cut off."""
        for connection in self._connections():
            if not connection.idle:
                connection.transport.abort()
        await super().shutdown(sockets)

    async def _drain_and_exit(self) -> None:
        try:
            while not self.started:
                await asyncio.sleep(0.02)
            lifecycle.drain()  # who asks whether this process is ready hears that it is not, while it still accepts
            self._parent.say(DRAINING)
            while time.monotonic() < self._accept_until:
                await asyncio.sleep(0.02)
            lifecycle.service().leave()
            if self._last:
                for listener in self._listeners:
                    take_no_more(listener)
                await asyncio.sleep(HANDSHAKE_S)
            await self._stop_accepting()
            linger_until = time.monotonic() + LINGER_S
            while not self._patience.is_over:
                connections = self._connections()
                busy = lifecycle.service().busy or not all(each.idle for each in connections)
                if not busy and (not connections or time.monotonic() > linger_until) and not self._close_silent():
                    break
                await asyncio.sleep(0.02)
        finally:
            self.should_exit = True

    async def _stop_accepting(self) -> None:
        """Takes over who waits in the socket's queue, and closes it."""
        for server in self.servers:
            server.close()
        await asyncio.sleep(0.01)  # the loop closes its socket in a later turn; ours is still open
        loop = asyncio.get_running_loop()
        for listener in self._listeners:
            with contextlib.suppress(OSError), listener:  # nobody is left, or there is no descriptor for another
                for _ in range(BACKLOG):
                    accepted, _ = listener.accept()
                    accepted.setblocking(False)
                    await loop.connect_accepted_socket(self._protocol, accepted)
        self._listeners = []

    def _protocol(self) -> asyncio.Protocol:
        make = self.config.http_protocol_class
        return make(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )

    def _connections(self) -> list[HotProtocol]:
        return [each for each in self.server_state.connections if isinstance(each, HotProtocol)]

    def _close_silent(self) -> bool:
        """Closes the connections on which nothing has come; whether there are others, with something to be read."""
        poll = select.poll()
        found = {}
        for connection in self._connections():
            descriptor = connection.transport.get_extra_info("socket").fileno()
            if descriptor >= 0:
                found[descriptor] = connection
                if not connection.flow.read_paused:  # else it does not read its answers, and gets no further one
                    poll.register(descriptor, select.POLLIN)
        unread = {descriptor for descriptor, _ in poll.poll(0)}
        for descriptor, connection in found.items():
            if descriptor not in unread:
                connection.shutdown()
        return bool(unread)

    def _obey(self) -> None:
        """The supervisor has something to say, or has gone."""
        try:
            for name, *values in self._parent.orders():
                if name == SUCCEED:
                    lifecycle.service().succeeds = True
                elif name == LAST:
                    self._last = True
                elif name == DRAIN:
                    self.begin_drain(*map(float, values))
        except EOFError:
            asyncio.get_running_loop().remove_reader(self._parent.socket)  # type: ignore[arg-type]
            self._last = True
            logger.warning("the supervisor has gone, so this process stops too")
            self._told_to_stop()


def serve(sock: socket.socket) -> None:
    """Serves this process's mode on a listening socket until it is told to stop. Returns after a clean stop."""
    sys.setswitchinterval(0.0005)  # a page that a thread renders must not hold up the data plane for 5 ms at a time
    import_module(settings.ROOT_URLCONF)  # all views: imported with the first page, they would hold up inferences
    HotProtocol.plane = lifecycle.plane()
    HotProtocol.rest = Rest(HotProtocol.plane)
    HotProtocol.leaves_all_to_django = settings.DATA_PLANE == "django"
    HotProtocol.max_body_bytes = settings.MAX_BODY_BYTES
    config = uvicorn.Config(
        "inference_site.asgi:application",
        http=HotProtocol,
        ws=StreamProtocol,
        ws_max_size=SILENT_BYTES
        if settings.IS_GATEWAY
        else settings.MAX_BODY_BYTES + MESSAGE_BYTES + BULK_BYTES + 2**16,
        ws_per_message_deflate=False,
        loop="uvloop",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=1,
    )
    Server(config).run(sockets=[sock])
