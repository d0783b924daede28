"""How a worker shows in answers."""

from __future__ import annotations

import msgspec

from gateway_app.core.watch import MAX_ATTEMPTS
from inference_site.lib.frames import Cache

_encode = msgspec.json.encode


class Face:
    """How a worker shows in answers: its name as JSON, and ready-made header lines."""

    __slots__ = ("hot", "joined", "name_json", "replies")

    def __init__(self, node_id: str) -> None:
        self.name_json = _encode(node_id)
        self.hot = _head(node_id, "gateway", 0)
        # By the worker's cache state, then by the number of workers that were asked.
        self.replies = [[_head(node_id, each.name.lower(), n) for n in range(MAX_ATTEMPTS + 1)] for each in Cache]
        self.joined = self.replies[Cache.JOINED]


def _head(node_id: str, cache: str, attempts: int) -> bytes:
    return f"x-node: {node_id}\r\nx-cache: {cache}\r\nx-attempts: {attempts}\r\n".encode()
