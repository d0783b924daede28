"""Listening sockets: opened once, handed to the processes that serve on them."""

import errno
import socket

WILDCARDS = ("", "0.0.0.0", "::")


class PortError(Exception):
    """The socket cannot be opened; the message names the address and the fix."""


def listen(host: str, port: int, option: str) -> socket.socket:
    """A bound, listening TCP socket. Port 0 takes any free one. option: what the user changes to get another port."""
    where = f"port {port} on {host or 'all addresses'}"
    if not 0 <= port <= 65_535:  # getaddrinfo would take it modulo 65,536
        raise PortError(f"cannot listen on {where}: ports go from 1 to 65535; choose another with {option}")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as error:
        raise PortError(f"cannot listen on {where}: {error}; give an address of this machine with --host") from error
    opened = socket.socket(family, kind, protocol)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if host == "::":
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        opened.bind(address)
        opened.listen(2048)
    except OSError as error:
        opened.close()
        if error.errno == errno.EADDRINUSE:
            fix = f"another program uses it: stop that one, or choose another port with {option}"
        elif error.errno == errno.EACCES:
            fix = f"ports below 1024 need privileges: choose another with {option}"
        else:
            fix = f"{error.strerror}; give an address of this machine with --host"
        raise PortError(f"cannot listen on {where}: {fix}") from error
    return opened


def address_of(listener: socket.socket) -> str:
    """host:port under which a program on this machine reaches the socket."""
    host, port = listener.getsockname()[:2]
    if host in WILDCARDS:
        host = "127.0.0.1"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
