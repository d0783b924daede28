"""The WebSocket of open pages, at /live."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from channels.generic.websocket import AsyncWebsocketConsumer
from channels.security.websocket import AllowedHostsOriginValidator, WebsocketDenier

from gateway_app.live import Client
from inference_site import lifecycle
from inference_site.heads import is_allowed_host
from inference_site.streaming import ABORT

logger = logging.getLogger(__name__)

# A page that has taken nothing for so long is cut off.
STUCK_S = 20.0
# One that is to hear that the socket ends has so long to take what it was sent before.
CLOSE_S = 0.5
UNSUPPORTED = 1003


class LiveConsumer(AsyncWebsocketConsumer):
    """Tells one page the gateway's figures: {"type": "start", "stats", "history"}, then {"type": "stats", "stats"} once
    a second and whenever something happens. It has nothing to ask."""

    _client: Client | None = None
    _writer: asyncio.Task[None] | None = None

    async def connect(self) -> None:
        """Channels: a page has connected."""
        await self.accept()  # a refusal before that would be a 403, whatever its code
        client = lifecycle.service().gateway.live.join()
        if isinstance(client, int):
            await self.close(client)
            return
        self._client = client
        self._writer = asyncio.get_running_loop().create_task(self._write(client), name="live page")

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """Channels: the page has sent something."""
        self._leave()
        await self.close(UNSUPPORTED, "this socket only tells; send nothing")

    async def disconnect(self, code: int) -> None:
        """Channels: the page is gone."""
        self._leave()

    def _leave(self) -> None:
        if self._client is not None:
            lifecycle.service().gateway.live.leave(self._client)
        if self._writer is not None:
            self._writer.cancel()

    async def _write(self, client: Client) -> None:
        try:
            while (message := await client.take()) is not None:
                async with asyncio.timeout(STUCK_S):
                    await self.send(text_data=message)
            async with asyncio.timeout(CLOSE_S):
                await self.close(client.closing)
        except TimeoutError:
            self._cut_off(client)
        except OSError:
            pass  # the page is gone: `disconnect` follows
        except Exception:
            # An open socket on which nothing comes would be worse: the page connects anew.
            logger.exception("an open page could not be told")
            self._cut_off(client)

    def _cut_off(self, client: Client) -> None:
        lifecycle.service().gateway.live.leave(client)
        extension = (self.scope.get("extensions") or {}).get(ABORT)
        if extension is not None:  # another server than ours closes by its own rules
            extension["abort"]()


async def live(scope: Any, receive: Any, send: Any) -> None:
    """The application: for pages of this site, and for programs."""
    application = LiveConsumer.as_asgi()
    # A browser always says which page connects. Who says nothing is a program, which may read /stats as well.
    origins = [value.decode("latin-1") for name, value in scope["headers"] if name == b"origin"]
    called = [name for name, _ in scope["headers"] if name == b"host"]
    if (called and not is_allowed_host(scope["headers"])) or not all(map(_is_url, origins)):
        application = WebsocketDenier.as_asgi()
    elif origins:
        application = AllowedHostsOriginValidator(application)
    await application(scope, receive, send)


def _is_url(text: str) -> bool:
    """Whether it can be read as one at all: Channels' check would fail on others."""
    with suppress(ValueError):
        return urlsplit(text).port != 0
    return False
