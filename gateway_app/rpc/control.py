"""Who may load and unload models over gRPC."""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from ipaddress import IPv6Address, ip_address
from urllib.parse import unquote

from inference_site.lib.errors import ApiError

_FORWARDED = ("forwarded", "x-forwarded-for")


def require_control(token: str, metadata: Iterable[tuple[str, str | bytes]], peer: str) -> None:
    """Raises ApiError 403 unless the caller has the token or, if there is none, calls from this machine.

    `peer` is as gRPC says it, such as ipv4:127.0.0.1:50051.
    """
    given = {name: value for name, value in metadata if isinstance(value, str)}
    if token:
        expected, sent = f"Bearer {token}", given.get("authorization", "")
        if hmac.compare_digest(sent.encode(), expected.encode()):
            return
        fix = "send the metadata authorization: Bearer and the value of MODEL_CONTROL_TOKEN"
    else:
        if is_local(peer) and not any(name in given for name in _FORWARDED):
            return
        fix = "call from this machine, or set MODEL_CONTROL_TOKEN for the gateway and send it as authorization: Bearer"
    raise ApiError(403, "forbidden", f"models can't be loaded or unloaded by {peer}; {fix}")


def is_local(peer: str) -> bool:
    """Whether a peer is on this machine."""
    kind, _, rest = unquote(peer).partition(":")
    if kind not in ("ipv4", "ipv6"):
        return kind == "unix"
    try:
        address = ip_address(rest.rpartition(":")[0].strip("[]"))
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback
