"""The WebSocket protocol: large messages leave without being copied, and who takes nothing can be cut off."""

from __future__ import annotations

from struct import pack
from typing import Any

from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

# In the extensions of a scope: its `send` takes messages that have `parts`, the bytes of one binary message in turn.
PARTS = "inference.parts"
# And its `abort` ends the connection at once, whatever has not been sent.
ABORT = "inference.abort"
_BINARY = 0x82  # a message that is one frame
_LONG = 127  # its length follows in 8 bytes


class StreamProtocol(WebSocketsSansIOProtocol):
    """uvicorn's, which copies a message twice: for 80 MB that takes half a second of the loop."""

    def handle_connect(self, event: Any) -> None:
        """uvicorn: a client asks for the upgrade."""
        super().handle_connect(event)
        if not self.close_sent:  # it has been accepted
            self.scope["extensions"] = {
                **(self.scope.get("extensions") or {}),
                PARTS: {},
                ABORT: {"abort": self.transport.abort},
            }

    async def send(self, message: Any) -> None:
        """uvicorn: the application sends. Raises OSError once the client has left."""
        parts = message.get("parts")
        if parts is None:
            await super().send(message)
            return
        await self.writable.wait()
        if self.disconnected or self.close_sent or not self.handshake_complete:
            raise ClientDisconnected
        self.transport.write(pack("!BBQ", _BINARY, _LONG, sum(map(len, parts))))
        for part in parts:
            self.transport.write(part)
