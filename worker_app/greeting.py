"""The worker's end of the handshake: what it says of itself, and whether a gateway holds the token."""

from __future__ import annotations

import logging

from inference_site.lib import frames, handshake
from inference_site.lib.frames import Ask
from worker_app.node import Node

logger = logging.getLogger(__name__)


def hello(node: Node, token: str, theirs: str, ours: str, max_ask_bytes: int) -> handshake.Hello:
    """Proves to the gateway whose challenge is `theirs` that this worker holds the token, and asks it for the same by
    `ours`."""
    return handshake.Hello(
        version=frames.PROTOCOL_VERSION,
        node_id=node.node_id,
        instance=node.instance,
        draining=node.draining,
        challenge=ours,
        proof=handshake.worker_proof(token, theirs, node.node_id, node.instance),
        last_run=node.last_run.found,
        max_ask_bytes=max_ask_bytes,
    )


def proves(message: bytes, token: str, challenge: str) -> bool:
    """Whether a gateway's first message shows that it holds the token."""
    try:
        (kind, _, _, _, payload), *_ = frames.asks(message)
    except ValueError:
        return False
    proof = handshake.gateway_proof(token, challenge)
    if kind != Ask.PROOF or not handshake.same(payload.decode("latin-1"), proof):
        logger.error("a gateway was turned away: it did not prove that it holds this worker's INFERENCE_TOKEN")
        return False
    return True
