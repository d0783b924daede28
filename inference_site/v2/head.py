"""What the head of a V2 request says, and whether its sender may load and unload models."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from inference_site.coding import read_accepted
from inference_site.lib.errors import ApiError
from inference_site.v2.access import require_control
from inference_site.v2.target import Target, What, target_of

# Who sends one of these is a proxy, or a web page in somebody's browser.
_FOREIGN = ("origin", "x-forwarded-for", "forwarded")
# A header by its lower-case name.
Header = Callable[[str], str | None]


class Asked(NamedTuple):
    """What the head of a request says; `infers`: an inference is asked for, in the right way; `forbidden` is why it may
    not load and unload models."""

    method: str
    path: str
    target: Target
    infers: bool = False
    header_length: int | None = None
    accepts: str = ""
    forbidden: ApiError | None = None


def read_head(method: str, path: str, header: Header, client: str | None) -> Asked:
    """What is asked. `client` is the address that the request came from.

    Raises ApiError 400 for an Inference-Header-Content-Length that is none.
    """
    target = target_of(path)
    if target.what is What.LOAD or target.what is What.UNLOAD:
        return Asked(method, path, target, forbidden=_why_not(header, client))
    if target.what is not What.INFER or method != "POST":
        return Asked(method, path, target)
    length, value = None, header("inference-header-content-length")
    if value is not None:
        if not (value.isascii() and value.isdigit() and len(value) <= 10):
            message = f"Inference-Header-Content-Length is {value[:40]!r}; send how many bytes of the body are JSON"
            raise ApiError(400, "invalid_header_length", message)
        length = int(value)
    return Asked(method, path, target, True, length, read_accepted(header("accept-encoding") or ""))


def _why_not(header: Header, client: str | None) -> ApiError | None:
    try:
        require_control(header("authorization"), client, any(header(name) is not None for name in _FOREIGN))
    except ApiError as error:
        return error
    return None
