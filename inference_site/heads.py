"""What the head of a request says about an inference: to whom it is addressed, and how long its client waits."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from django.conf import settings
from django.http.request import split_domain_port, validate_host

from inference_site.lib.errors import ApiError

MAX_TIMEOUT_MS = 600_000
MAX_KNOWN_HEADS, MAX_KNOWN_HEAD_BYTES = 1024, 2048
# No data has this length beyond its head.
NOT_KNOWN: tuple[int, int | None] = (-1000, None)

_REQUEST_LINE = b"POST /infer HTTP/1.1\r\n"


class KnownHeads(dict[bytes, tuple[int, int | None]]):
    """Heads of inferences that ask for nothing special, with their Content-Length and timeout.

    What the parser makes of a head depends on its bytes alone, so data that is such a head and its body need not be
    parsed again.
    """

    def remember(self, data: bytes, length: int, timeout_ms: int | None) -> None:
        """`data` begins with a head that has been parsed."""
        head = data[: data.find(b"\r\n\r\n") + 4]
        # Lines that end in a bare line feed could end the head elsewhere than where `find` looks.
        whole = head.startswith(_REQUEST_LINE) and head.count(b"\n") == head.count(b"\r\n")
        if whole and len(head) <= MAX_KNOWN_HEAD_BYTES:
            if len(self) >= MAX_KNOWN_HEADS:
                self.clear()
            self[head] = length, timeout_ms


def is_allowed_host(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether there is one Host header, and Django would serve it.

    Otherwise a web page whose name is made to point here could ask, and read, as its visitor's machine.
    """
    hosts = [value for name, value in headers if name == b"host"]
    return len(hosts) == 1 and _is_allowed(hosts[0])


@lru_cache(maxsize=1024)
def _is_allowed(host: bytes) -> bool:
    domain, _ = split_domain_port(host.decode("latin-1"))
    return bool(domain) and validate_host(domain, settings.ALLOWED_HOSTS)


def read_timeout_ms(value: str) -> int:
    """The value of X-Request-Timeout-Ms. Raises ApiError 400 for anything but whole milliseconds."""
    if value.isascii() and value.isdigit() and len(value) <= 10 and 1 <= int(value) <= MAX_TIMEOUT_MS:
        return int(value)
    shown = value if len(value) <= 40 else value[:40] + "…"
    message = f"X-Request-Timeout-Ms is {shown!r}; send whole milliseconds from 1 to {MAX_TIMEOUT_MS}"
    raise ApiError(400, "invalid_timeout", message)
