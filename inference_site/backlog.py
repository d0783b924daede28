"""The end of a listening socket: no client that has connected is reset, those that come later are refused."""

from __future__ import annotations

import ctypes
import struct
import sys
from contextlib import suppress
from socket import SOL_SOCKET, socket

_SO_ATTACH_FILTER = 26  # Linux; the socket module has no name for it
# Classic BPF on the TCP header (socket(7)): drop what has SYN without ACK, pass the rest. Code, jump if, jump else, k.
_NO_SYN = (
    (0x30, 0, 0, 13),  # load the byte with the flags
    (0x54, 0, 0, 0x12),  # of these, SYN and ACK
    (0x15, 0, 1, 0x02),  # is it SYN alone?
    (0x06, 0, 0, 0),  # drop
    (0x06, 0, 0, 0xFFFFFFFF),  # pass
)


def take_no_more(listener: socket) -> None:
    """From now on nobody new gets into the socket's queue, in whichever process it is held: it must be its end.

    To close a socket resets who waits in its queue, and between the last accept() and the close more may come. A client
    whose SYN is dropped sends it again a second later, and is refused by then. Where the system knows no such filter,
    nothing happens.
    """
    if sys.platform != "linux":
        return
    program = b"".join(struct.pack("HBBI", *each) for each in _NO_SYN)
    buffer = ctypes.create_string_buffer(program, len(program))
    with suppress(OSError):
        listener.setsockopt(SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", len(_NO_SYN), ctypes.addressof(buffer)))
