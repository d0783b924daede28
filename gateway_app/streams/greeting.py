"""Whether what answers at a worker's address is that worker."""

from __future__ import annotations

import re

from gateway_app.streams.channel import HandshakeError
from inference_site.lib import frames, handshake

NODE_ID = re.compile(r"[A-Za-z0-9._-]{1,100}")


def check_greeting(hello: handshake.Hello, challenge: str, token: str, expected_name: str | None) -> None:
    """Raises HandshakeError unless this is the worker that the configuration names, with the same token."""
    if hello.version != frames.PROTOCOL_VERSION:
        raise HandshakeError(f"it speaks protocol {hello.version}, not {frames.PROTOCOL_VERSION}; run the same release")
    proof = handshake.worker_proof(token, challenge, hello.node_id, hello.instance)
    if not handshake.same(hello.proof, proof):
        raise HandshakeError("it did not prove that it holds this gateway's INFERENCE_TOKEN; set the same on both")
    if not NODE_ID.fullmatch(hello.node_id):
        name = hello.node_id[:120]
        raise HandshakeError(f"its NODE_ID {name!r} is not 1 to 100 of letters, digits, '.', '_', '-'")
    if expected_name is not None and hello.node_id != expected_name:
        raise HandshakeError(f"there is {hello.node_id!r}, not {expected_name!r}; correct the address or the name")
