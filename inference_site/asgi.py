"""The composition root: what answers HTTP, what answers WebSockets, what starts and stops with the server."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "inference_site.settings")

from channels.routing import ProtocolTypeRouter
from django.conf import settings
from django.core.asgi import get_asgi_application

from inference_site import lifecycle

http_application = get_asgi_application()


async def lifespan(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """The server starts and stops."""
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            await lifecycle.ensure_started()
            await send({"type": "lifespan.startup.complete"})
        else:
            await lifecycle.stop()
            await send({"type": "lifespan.shutdown.complete"})
            return


async def http(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Pages, API and admin; a server without a lifespan starts the rest with its first request."""
    await lifecycle.ensure_started()

    async def send_last(message: Mapping[str, Any]) -> None:
        if message["type"] == "http.response.start" and lifecycle.is_draining():
            message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
        await send(message)

    await http_application(scope, receive, send_last)


async def websocket(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """A worker takes streams of gateways at /stream; a gateway tells pages its figures at /live."""
    await lifecycle.ensure_started()
    if settings.INFERENCE_MODE == "worker" and scope["path"] == "/stream":
        from worker_app.stream import Stream

        node = lifecycle.service().plane.node
        bulk = scope["query_string"] == b"bulk"
        stream = Stream(node, settings.INFERENCE_TOKEN, send, bulk=bulk, max_ask_bytes=settings.MAX_BODY_BYTES)
        await stream.serve(scope, receive)
    elif settings.INFERENCE_MODE == "gateway" and scope["path"] == "/live":
        from gateway_app.consumers import live

        await live(scope, receive, send)
    else:
        await receive()
        await send({"type": "websocket.close", "code": 4404})


application = ProtocolTypeRouter({"http": http, "websocket": websocket, "lifespan": lifespan})
