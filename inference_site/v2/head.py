"""What the head of a V2 request says, and whether its sender may load and unload models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from inference_site.coding import read_accepted
from inference_site.lib.errors import ApiError
from inference_site.v2.access import require_control
from inference_site.v2.target import Target, What, target_of


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


def read_head(method: str, path: str, headers: Mapping[str, str], client: str | None) -> Asked:
    """What is asked. `headers` are by their names in lower case, `client` is the address that the request came from.

    Raises ApiError 400 for an Inference-Header-Content-Length that is none.
    """
    target = target_of(path)
    if target.what is What.LOAD or target.what is What.UNLOAD:
        return Asked(method, path, target, forbidden=_why_not(headers, client))
    if target.what is not What.INFER or method != "POST":
        return Asked(method, path, target)
    length, value = None, headers.get("inference-header-content-length")
    if value is not None:
        if not (value.isascii() and value.isdigit() and len(value) <= 10):
            message = f"Inference-Header-Content-Length is {value[:40]!r}; send how many bytes of the body are JSON"
            raise ApiError(400, "invalid_header_length", message)
        length = int(value)
    return Asked(method, path, target, True, length, read_accepted(headers.get("accept-encoding", "")))


def _why_not(headers: Mapping[str, str], client: str | None) -> ApiError | None:
    try:
        require_control(headers, client)
    except ApiError as error:
        return error
    return None
