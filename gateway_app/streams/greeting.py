"""The handshake with a worker: whether what answers at its address is that worker."""

from __future__ import annotations

import re

from gateway_app.streams.channel import Channel, HandshakeError, Owner
from inference_site.lib import frames, handshake
from inference_site.lib.frames import Ask

# As long as the worker waits; a loop that is held up meanwhile, here or there, must not look like a worker that hangs.
HANDSHAKE_TIMEOUT_S = 5.0

_NODE_ID = re.compile(r"[A-Za-z0-9._-]{1,100}")


async def open_channels(owner: Owner, address: str, token: str, expected_name: str | None) -> tuple[Channel, Channel]:
    """The connection for small bodies and the one for large ones, both to the same process, which is told that this
    gateway holds the token. Raises OSError, WSError, TimeoutError or HandshakeError."""
    opened: list[Channel] = []
    try:
        opened.append(small := await _open(owner, f"ws://{address}/stream", token, expected_name))
        opened.append(bulk := await _open(owner, f"ws://{address}/stream?bulk", token, expected_name))
        if small.hello.result().instance != bulk.hello.result().instance:
            raise HandshakeError("two processes answered in turn; one of them is about to stop")
        if not all(channel.connected for channel in opened):
            raise HandshakeError("the connection was lost at once; does INFERENCE_TOKEN differ?")
    except BaseException:
        for channel in opened:
            channel.close()
        raise
    return small, bulk


async def _open(owner: Owner, url: str, token: str, expected_name: str | None) -> Channel:
    challenge = handshake.new_challenge()
    channel = await Channel.open(owner, url, challenge, HANDSHAKE_TIMEOUT_S)
    hello = channel.hello.result()
    try:
        _check(hello, challenge, token, expected_name)
    except HandshakeError:
        channel.close()
        raise
    channel.order(Ask.PROOF, handshake.gateway_proof(token, hello.challenge).encode())
    return channel


def _check(hello: handshake.Hello, challenge: str, token: str, expected_name: str | None) -> None:
    """Raises HandshakeError unless this is the worker that the configuration names, with the same token."""
    if hello.version != frames.PROTOCOL_VERSION:
        raise HandshakeError(f"it speaks protocol {hello.version}, not {frames.PROTOCOL_VERSION}; run the same release")
    proof = handshake.worker_proof(token, challenge, hello.node_id, hello.instance)
    if not handshake.same(hello.proof, proof):
        raise HandshakeError("it did not prove that it holds this gateway's INFERENCE_TOKEN; set the same on both")
    if not _NODE_ID.fullmatch(hello.node_id):
        name = hello.node_id[:120]
        raise HandshakeError(f"its NODE_ID {name!r} is not 1 to 100 of letters, digits, '.', '_', '-'")
    if expected_name is not None and hello.node_id != expected_name:
        raise HandshakeError(f"there is {hello.node_id!r}, not {expected_name!r}; correct the address or the name")
