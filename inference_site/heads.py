"""What the head of a request says about an inference: to whom it is addressed, how long its client waits, and whether
it is to be explained."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from django.conf import settings
from django.http.request import split_domain_port, validate_host

from inference_site.lib.errors import ApiError
from inference_site.v2.head import Asked
from inference_site.v2.request import MAX_TIMEOUT_MS

MAX_KNOWN_HEADS, MAX_KNOWN_HEAD_BYTES = 1024, 2048
# What a head is known by: Content-Length, timeout in milliseconds, and what is asked by V2.
Known = tuple[int, int | None, Asked | None]
# No data has this length beyond its head.
NOT_KNOWN: Known = (-1000, None, None)


class KnownHeads(dict[bytes, Known]):
    """Heads of inferences whose bodies are sent as they are.

    What the parser makes of a head depends on its bytes alone, so data that is such a head and its body need not be
    parsed again.
    """

    def remember(self, data: bytes, url: bytes, known: Known) -> None:
        """`data` begins with a head that has been parsed, of a POST to `url`."""
        head = data[: data.find(b"\r\n\r\n") + 4]
        # Lines that end in a bare line feed could end the head elsewhere than where `find` looks.
        whole = head.startswith(b"POST %b HTTP/1.1\r\n" % url) and head.count(b"\n") == head.count(b"\r\n")
        if whole and len(head) <= MAX_KNOWN_HEAD_BYTES:
            if len(self) >= MAX_KNOWN_HEADS:
                self.clear()
            self[head] = known


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


def read_explain(value: str) -> bool:
    """The value of X-Explain. Raises ApiError 400 for anything but 1 and 0."""
    if value in ("0", "1"):
        return value == "1"
    raise ApiError(400, "invalid_explain", f"X-Explain is {_shown(value)}; send 1 to have the answer explained, or 0")


def read_timeout_ms(value: str) -> int:
    """The value of X-Request-Timeout-Ms. Raises ApiError 400 for anything but whole milliseconds."""
    if value.isascii() and value.isdigit() and len(value) <= 10 and 1 <= int(value) <= MAX_TIMEOUT_MS:
        return int(value)
    message = f"X-Request-Timeout-Ms is {_shown(value)}; send whole milliseconds from 1 to {MAX_TIMEOUT_MS}"
    raise ApiError(400, "invalid_timeout", message)


def _shown(value: str) -> str:
    return repr(value if len(value) <= 40 else value[:40] + "…")
