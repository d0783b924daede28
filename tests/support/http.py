"""HTTP for tests, without a client library in between: one request, one new connection."""

import http.client
from contextlib import closing
from urllib.parse import urlsplit

from tests.support.waiting import PATIENCE_S


def get(url: str, *, timeout_s: float = PATIENCE_S) -> tuple[int, bytes]:
    return request("GET", url, timeout_s=timeout_s)


def request(
    method: str, url: str, body: bytes = b"", headers: dict[str, str] | None = None, *, timeout_s: float = PATIENCE_S
) -> tuple[int, bytes]:
    """Status and body; OSError when there is no answer."""
    parts = urlsplit(url)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    with closing(http.client.HTTPConnection(parts.netloc, timeout=timeout_s)) as client:
        try:
            client.request(method, path, body or None, headers or {})
            response = client.getresponse()
            return response.status, response.read()
        except http.client.HTTPException as error:
            raise ConnectionError(f"{url}: {error!r}") from error
