"""The gateway's WebSocket /live, as much of it as a page needs: figures once a second, and at once when they change."""

import base64
import hashlib
import json
import select
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any

GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # of RFC 6455
TICK_S = 0.05
PUSH_S = 1.0


def frame(text: bytes) -> bytes:
    """One text message, as a server sends it."""
    if len(text) < 126:
        return bytes((0x81, len(text))) + text
    if len(text) < 1 << 16:
        return b"\x81\x7e" + len(text).to_bytes(2, "big") + text
    return b"\x81\x7f" + len(text).to_bytes(8, "big") + text


def serve_live(
    handler: BaseHTTPRequestHandler, take: Callable[[], tuple[Any, Any] | None], silent: Callable[[], bool]
) -> None:
    """Until the page leaves, or until `take`, which returns stats and history, returns None. Says nothing while
    `silent`."""
    digest = hashlib.sha1((handler.headers["Sec-WebSocket-Key"] + GUID).encode()).digest()
    handler.protocol_version = "HTTP/1.1"
    handler.close_connection = True
    handler.send_response(101)
    handler.send_header("Upgrade", "websocket")
    handler.send_header("Connection", "Upgrade")
    handler.send_header("Sec-WebSocket-Accept", base64.b64encode(digest).decode())
    handler.end_headers()
    kind, last, sent_at = "start", "", 0.0
    try:
        while (found := take()) is not None:
            stats, history = found
            text = json.dumps(stats)
            now = time.monotonic()
            if not silent() and (text != last or now - sent_at >= PUSH_S):
                message = {"type": kind, "stats": stats} | ({"history": history} if kind == "start" else {})
                handler.wfile.write(frame(json.dumps(message).encode()))
                kind, last, sent_at = "stats", text, now
            # A page sends nothing but its leave.
            if select.select([handler.connection], [], [], TICK_S)[0]:
                return
    except ConnectionError:
        return
