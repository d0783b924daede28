"""Who may load and unload models by V2."""

from __future__ import annotations

import hmac
from collections.abc import Callable

_LOOPBACK = ("127.", "::1", "::ffff:127.")
# Who sends one of these is a proxy, or a web page in somebody's browser.
_FOREIGN = ("origin", "x-forwarded-for", "forwarded")


def why_not(header: Callable[[str], str | None], client: str | None, token: str) -> str:
    """Why a request may not change which models are loaded; "" if it may.

    `header` gives a header by its lower-case name, `client` is the address that the request came from. With a token,
    who knows it may, from anywhere; without one, who asks from this machine.
    """
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
