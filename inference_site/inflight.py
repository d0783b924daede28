"""How many bytes of request bodies one process holds at once."""

from __future__ import annotations

from typing import Protocol

# Smaller bodies are not counted: what they may add up to is bounded by the number of connections.
SMALL_BYTES = 64 * 1024


class Counted(Protocol):
    """A request whose body is counted."""

    counted_bytes: int


class InFlightBytes:
    """A budget for the bodies that have come, whole or in part, and are not answered yet. For one thread.

    Bodies of up to SMALL_BYTES are not for it.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0

    def admits(self, length: int) -> bool:
        """Whether a body of this length, of which nothing has come yet, would be within the limit now."""
        return self.used + length <= self.limit

    def count(self, request: Counted, length: int) -> bool:
        """So much of the request's body has come. False: it is beyond the limit, and nothing was counted."""
        more = length - request.counted_bytes
        if self.used + more > self.limit:
            return False
        self.used += more
        request.counted_bytes = length
        return True

    def give_back(self, request: Counted) -> None:
        """The request has been answered, or nobody waits for it."""
        self.used -= request.counted_bytes
        request.counted_bytes = 0
