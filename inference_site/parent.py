"""The line between a process and its supervisor: a socket that the process inherits, on which both write words."""

from __future__ import annotations

import os
import socket
from contextlib import suppress

PARENT_FD = "INFERENCE_PARENT_FD"

# What a process says: it serves; it has been told to stop, by whomever, and is about to.
READY, DRAINING = "ready", "draining"
# What it is told: that another process serves on the same socket until it is ready; that none is to serve there after
# it; and "drain ACCEPT_S END_S", to accept connections for so long still, and to let go of everything after so long.
SUCCEED, LAST, DRAIN = "succeed", "last", "drain"


class Parent:
    """A process's end of the line. Without a supervisor nothing is heard, and what is said goes nowhere."""

    def __init__(self) -> None:
        fd = os.environ.get("INFERENCE_PARENT_FD")
        self.socket = None if fd is None else socket.socket(fileno=int(fd))
        if self.socket is not None:
            self.socket.setblocking(False)
            self.socket.set_inheritable(False)
        self._partial = ""

    def say(self, word: str) -> None:
        """A word to the supervisor; one that has gone hears nothing."""
        if self.socket is not None:
            with suppress(OSError):
                self.socket.send(f"{word}\n".encode())

    def orders(self) -> list[list[str]]:
        """The words of each line that has come since the last call. EOFError: the supervisor has gone."""
        if self.socket is None:
            return []
        try:
            data = self.socket.recv(4096)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        if not data:
            raise EOFError
        *lines, self._partial = (self._partial + data.decode()).split("\n")
        return [line.split() for line in lines]
