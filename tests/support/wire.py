"""HTTP as bytes on a socket, for what a client library would not send or would hide."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlsplit

from tests.support.waiting import PATIENCE_S


@dataclass(frozen=True)
class Reply:
    """One answer; header names are in lower case, `interim` are the statuses of the 1xx answers before it."""

    status: int
    headers: dict[str, str]
    body: bytes
    interim: tuple[int, ...] = ()

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def closes(self) -> bool:
        return self.headers.get("connection", "").lower() == "close"


def request(
    method: str, path: str, body: bytes | None = None, headers: Sequence[str] = (), *, version: str = "1.1"
) -> bytes:
    """Head and body with Host and, if there is a body, Content-Length; nothing else that was not asked for."""
    lines = [f"{method} {path} HTTP/{version}", "Host: localhost", *headers]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b"")


def post(body: bytes, *headers: str, path: str = "/infer") -> bytes:
    """An inference, unless told otherwise."""
    return request("POST", path, body, headers)


def chunked(*parts: bytes, extension: bytes = b"", trailers: bytes = b"") -> bytes:
    """A body in chunks; `trailers` are whole lines."""
    sent = b"".join(b"%x%b\r\n%b\r\n" % (len(part), extension, part) for part in parts)
    return sent + b"0\r\n" + trailers + b"\r\n"


class Wire:
    """A connection. Reads time out rather than hang."""

    def __init__(self, host: str, port: int, timeout_s: float = PATIENCE_S) -> None:
        self.socket = socket.create_connection((host, port), timeout=timeout_s)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""

    @classmethod
    def to(cls, url: str) -> Self:
        parts = urlsplit(url)
        assert parts.hostname and parts.port
        return cls(parts.hostname, parts.port)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def ask(self, data: bytes) -> Reply:
        self.send(data)
        return self.read()

    def read(self, *, bodiless: bool = False) -> Reply:
        """The next final answer. Raises EOFError if the connection ends before it is whole."""
        interim: list[int] = []
        while True:
            status, headers = self._head()
            if status >= 200:
                break
            interim.append(status)
        return Reply(status, headers, b"" if bodiless else self._body(headers), tuple(interim))

    def read_interim(self) -> int:
        """Status of a 1xx answer, and nothing beyond it."""
        return self._head()[0]

    def read_all(self) -> list[Reply]:
        """Every answer until the server closes."""
        replies: list[Reply] = []
        while True:
            if not self._buffer and not self._more():
                return replies
            replies.append(self.read())

    def at_end(self) -> bool:
        """Whether the server closes now, in order and without another byte; waits for it."""
        return not self._buffer and not self._more()

    def _more(self) -> bool:
        data = self.socket.recv(65536)
        self._buffer += data
        return bool(data)

    def _until(self, mark: bytes) -> bytes:
        while mark not in self._buffer:
            if not self._more():
                raise EOFError(f"the server closed after {self._buffer[:300]!r}")
        found, _, self._buffer = self._buffer.partition(mark)
        return found

    def _exactly(self, length: int) -> bytes:
        parts, missing = [self._buffer[:length]], length - len(self._buffer)
        self._buffer = self._buffer[length:]
        while missing > 0:
            data = self.socket.recv(min(missing, 2**20))
            if not data:
                raise EOFError(f"the server closed {missing} of {length} bytes before the end of the body")
            parts.append(data)
            missing -= len(data)
        return b"".join(parts)

    def _head(self) -> tuple[int, dict[str, str]]:
        first, *lines = self._until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        version, status, _ = first.split(" ", 2)
        assert version == "HTTP/1.1", first
        return int(status), {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}

    def _body(self, headers: dict[str, str]) -> bytes:
        if headers.get("transfer-encoding") == "chunked":
            parts = []
            while size := int(self._until(b"\r\n"), 16):
                parts.append(self._exactly(size))
                self._until(b"\r\n")
            self._until(b"\r\n")
            return b"".join(parts)
        return self._exactly(int(headers.get("content-length", "0")))


def close(client: Wire) -> None:
    """As a client does whose own time is over: its side sends FIN, and RST to whatever comes after."""
    client.socket.close()


def reset(client: Wire) -> None:
    """The client vanishes: its side sends RST instead of an orderly end."""
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.socket.close()


def send_in_background(client: Wire, data: bytes) -> None:
    """A server may answer, and close, before it has read all."""

    def send() -> None:
        try:
            client.send(data)
        except OSError:
            return

    threading.Thread(target=send, daemon=True).start()
