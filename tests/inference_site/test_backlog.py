"""The queue of a listening socket at its end."""

import errno
import socket
import sys
from contextlib import ExitStack

import pytest

from inference_site.backlog import take_no_more
from tests.support.processes import wait_until
from tests.support.waiting import PATIENCE_S


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has the filter")
def test_who_has_connected_is_served_and_who_comes_later_is_refused():
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        address = listener.getsockname()
        before = [stack.enter_context(socket.create_connection(address, timeout=PATIENCE_S)) for _ in range(20)]
        take_no_more(listener)
        late = stack.enter_context(socket.socket())
        late.setblocking(False)
        late.connect_ex(address)

        for number, client in enumerate(before):
            client.sendall(b"%d" % number)  # over a connection, all goes on as ever
            accepted, _ = listener.accept()
            stack.enter_context(accepted)
            assert accepted.recv(16) == b"%d" % number
            accepted.sendall(b"answer")
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()  # the late one is not in the queue, so the end does not reset it
        listener.close()

        assert [client.recv(16) for client in before] == [b"answer"] * 20
        errors = iter(lambda: late.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), None)
        wait_until("the late one is refused", lambda: next(errors) == errno.ECONNREFUSED)
