"""Who may load and unload models by V2, over HTTP and gRPC alike."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from ipaddress import IPv6Address, ip_address

from django.conf import settings

from inference_site.lib.errors import ApiError

# What proxies add, each its own; and any that begins with x-forwarded.
_PROXIES = {
    "forwarded",
    "via",
    "x-real-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-original-forwarded-for",
    "x-envoy-external-address",
    "cf-connecting-ip",
    "fastly-client-ip",
    "true-client-ip",
}


def require_control(headers: Mapping[str, str], peer_host: str | None) -> None:
    """With MODEL_CONTROL_TOKEN, who knows it may, from anywhere; without one, who asks from this machine itself.

    `headers` are the request's, by their names in lower case, `peer_host` is the address that it came from. What has a
    header of a proxy or of a web page may come from elsewhere.

    Raises ApiError 403, which says how.
    """
    token = settings.MODEL_CONTROL_TOKEN
    if token:
        if not hmac.compare_digest(
            headers.get("authorization", "").encode(errors="replace"), f"Bearer {token}".encode()
        ):
            raise _forbidden("send the header Authorization: Bearer with the server's MODEL_CONTROL_TOKEN")
        return
    how = "set MODEL_CONTROL_TOKEN on the server, and send it as Authorization: Bearer"
    for name, value in headers.items():
        if _is_foreign(name, value):
            raise _forbidden(f"it has the header {name}, so it has come through a proxy or from a web page; {how}")
    if not _is_loopback(peer_host or ""):
        raise _forbidden(f"it has come from {peer_host or 'elsewhere'}, not from this machine; {how}")


def _forbidden(why: str) -> ApiError:
    return ApiError(403, "forbidden", f"this request may not load or unload models: {why}")


def _is_foreign(name: str, value: str) -> bool:
    if name == "sec-fetch-site":
        return value not in ("none", "same-origin")
    return name == "origin" or name in _PROXIES or name.startswith("x-forwarded")


def _is_loopback(host: str) -> bool:
    try:
        address = ip_address(host)
    except ValueError:
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped.is_loopback
    return address.is_loopback
