"""Who may load and unload models by V2, over HTTP and gRPC alike."""

from __future__ import annotations

import hmac
from ipaddress import IPv6Address, ip_address

from django.conf import settings

from inference_site.lib.errors import ApiError


def require_control(authorization: str | None, peer_host: str | None, forwarded: bool) -> None:
    """With MODEL_CONTROL_TOKEN, who knows it may, from anywhere; without one, who asks from this machine.

    `authorization` is the request's header of that name, `peer_host` the address that it came from; `forwarded` says
    that it has a header Origin, X-Forwarded-For or Forwarded: it may come from a web page, or from behind a proxy.

    Raises ApiError 403, which says how.
    """
    token = settings.MODEL_CONTROL_TOKEN
    if token:
        if not hmac.compare_digest((authorization or "").encode(errors="replace"), f"Bearer {token}".encode()):
            raise _forbidden("send the header Authorization: Bearer with the server's MODEL_CONTROL_TOKEN")
        return
    how = "set MODEL_CONTROL_TOKEN on the server, and send it as Authorization: Bearer"
    if forwarded:
        raise _forbidden(f"it has come through a proxy or from a web page (Origin, X-Forwarded-For, Forwarded); {how}")
    if not _is_loopback(peer_host or ""):
        raise _forbidden(f"it has come from {peer_host or 'elsewhere'}, not from this machine; {how}")


def _forbidden(why: str) -> ApiError:
    return ApiError(403, "forbidden", f"this request may not load or unload models: {why}")


def _is_loopback(host: str) -> bool:
    try:
        address = ip_address(host)
    except ValueError:
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped.is_loopback
    return address.is_loopback
