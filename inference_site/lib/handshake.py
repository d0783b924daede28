"""How gateway and worker know each other: both prove that they hold the shared token, neither sends it.

The gateway's upgrade request carries a random challenge. The worker's first frame is a `Hello` with its name, its own
challenge and an HMAC over both; only then does the gateway answer with its proof, and only after that do requests
flow. So a stranger who took over a worker's port gets no data, and a stranger who calls a worker gets no answer.
Without a token the key is empty: names are still checked, secrets are not.
"""

from __future__ import annotations

import hmac
import secrets

import msgspec

CHALLENGE_HEADER = "x-inference-challenge"


class Hello(msgspec.Struct, frozen=True, kw_only=True):
    """A worker's first frame. `instance` is new for each process, so that a restart can be told from a reconnect."""

    version: int
    node_id: str
    instance: str
    draining: bool
    challenge: str
    proof: str
    last_run: int | None = None  # key of the watched input that was running when the process before this one ended
    max_ask_bytes: int = 0  # the largest payload of an ask that it takes; 0: it has not said so


def new_challenge() -> str:
    """128 random bits as text."""
    return secrets.token_hex(16)


def worker_proof(token: str, gateway_challenge: str, node_id: str, instance: str) -> str:
    """What only a worker with the token can answer to this challenge."""
    return _sign(token, "worker", gateway_challenge, node_id, instance)


def gateway_proof(token: str, worker_challenge: str) -> str:
    """What only a gateway with the token can answer to this challenge."""
    return _sign(token, "gateway", worker_challenge)


def same(left: str, right: str) -> bool:
    """Compares two proofs in constant time."""
    return hmac.compare_digest(left.encode(), right.encode())


def _sign(token: str, *parts: str) -> str:
    message = b"".join(b"%d:%b" % (len(part.encode()), part.encode()) for part in parts)
    return hmac.new(token.encode(), message, "sha256").hexdigest()
