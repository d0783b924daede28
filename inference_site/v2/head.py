"""What the head of a V2 request says, and whether its sender may load and unload models."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import NamedTuple

from inference_site.coding import read_accepted
from inference_site.lib.errors import ApiError
from inference_site.v2.target import Target, What, target_of

_LOOPBACK = ("127.", "::1", "::ffff:127.")
# Who sends one of these is a proxy, or a web page in somebody's browser.
_FOREIGN = ("origin", "x-forwarded-for", "forwarded")
# A header by its lower-case name.
Header = Callable[[str], str | None]


class Asked(NamedTuple):
    """What the head of a request says. `forbidden`: why it may not load and unload models; "" if it may."""

    method: str
    path: str
    target: Target
    header_length: int | None = None
    accepts: str = ""
    forbidden: str = ""


def read_head(method: str, path: str, header: Header, client: str | None, token: str) -> Asked:
    """What is asked. `client` is the address that the request came from, `token` what the server's
    MODEL_CONTROL_TOKEN is.

    Raises ApiError 400 for an Inference-Header-Content-Length that is none.
    """
    target = target_of(path)
    if target.what is What.LOAD or target.what is What.UNLOAD:
        return Asked(method, path, target, forbidden=_why_not(header, client, token))
    if target.what is not What.INFER:
        return Asked(method, path, target)
    length, value = None, header("inference-header-content-length")
    if value is not None:
        if not (value.isascii() and value.isdigit() and len(value) <= 10):
            message = f"Inference-Header-Content-Length is {value[:40]!r}; send how many bytes of the body are JSON"
            raise ApiError(400, "invalid_header_length", message)
        length = int(value)
    return Asked(method, path, target, length, read_accepted(header("accept-encoding") or ""))


def _why_not(header: Header, client: str | None, token: str) -> str:
    """With a token, who knows it may, from anywhere; without one, who asks from this machine."""
    if token:
        given = (header("authorization") or "").encode()
        if hmac.compare_digest(given, b"Bearer " + token.encode()):
            return ""
        return "send the header Authorization: Bearer with the server's MODEL_CONTROL_TOKEN"
    how = "set MODEL_CONTROL_TOKEN on the server, and send it as Authorization: Bearer"
    for name in _FOREIGN:
        if header(name) is not None:
            return f"the request has the header {name}, so it may come from elsewhere; {how}"
    if client is not None and client.startswith(_LOOPBACK):
        return ""
    return f"the request comes from {client or 'elsewhere'}, not from this machine; {how}"
