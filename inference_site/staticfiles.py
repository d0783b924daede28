"""Static files: each address has the version of its file, so that a browser keeps it for good, and text is sent
compressed."""

from __future__ import annotations

import asyncio
import gzip
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import cast

import xxhash
from django.conf import settings
from django.contrib.staticfiles import finders
from django.contrib.staticfiles.storage import StaticFilesStorage
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.utils.cache import get_conditional_response
from servestatic.middleware import ServeStaticMiddleware
from servestatic.responders import StaticFile
from servestatic.utils import parse_accept_encoding

FOR_GOOD = f"max-age={365 * 24 * 3600}, public, immutable"
# Asked for by another version than this process has, while gateways are being upgraded: to be asked for again.
NOT_THIS_VERSION = "no-cache"
# What is packed by its format already gets no smaller: it is sent as it is.
WORTH_IT = 0.9


@dataclass(frozen=True)
class Content:
    """What a file holds: its version, and its bytes as gzip if that is worth it."""

    version: str
    packed: bytes | None


@lru_cache(maxsize=1024)
def content_of(name: str) -> Content | None:
    """Of a static file by its name; None if there is no such one. Read once: a running process changes none."""
    path = finders.find(name)
    if not isinstance(path, str):
        return None
    content = Path(path).read_bytes()
    packed = gzip.compress(content, mtime=0)
    return Content(xxhash.xxh3_64_hexdigest(content), packed if len(packed) < WORTH_IT * len(content) else None)


class VersionedStorage(StaticFilesStorage):
    """Django's, with a version in each address: a page never gets parts of another release from a browser's cache."""

    def url(self, name: str | None) -> str:
        """Django: the address of a file, for `{% static %}`."""
        address = super().url(name)
        content = None if settings.DEBUG else content_of(name or "")
        return address if content is None else f"{address}?v={content.version}"


class StaticFiles(ServeStaticMiddleware):
    """ServeStatic, which leaves to this who takes gzip, and all else (other clients, ranges, errors) to itself."""

    async def __call__(self, request: HttpRequest) -> HttpResponseBase:
        """Django: a file, or what the next one answers."""
        file = self.files.get(request.path_info)
        if settings.DEBUG or not isinstance(file, StaticFile):
            return cast(HttpResponseBase, await super().__call__(request))
        content = await asyncio.to_thread(content_of, request.path_info.removeprefix(self.static_prefix))
        if content is None:  # it has been removed since
            return cast(HttpResponseBase, await super().__call__(request))
        takes_gzip = "gzip" in parse_accept_encoding(request.headers.get("Accept-Encoding", ""))
        if content.packed and takes_gzip and request.method in ("GET", "HEAD") and "Range" not in request.headers:
            response: HttpResponseBase = _packed_response(request, file, content)
        else:
            response = await self.aserve(file, request)
        if content.packed:
            response["Vary"] = "Accept-Encoding"
        version = request.GET.get("v")
        if version is not None and response.status_code < 400:
            response["Cache-Control"] = FOR_GOOD if version == content.version else NOT_THIS_VERSION
        return response


def _packed_response(request: HttpRequest, file: StaticFile, content: Content) -> HttpResponseBase:
    as_it_is = file.alternatives[0][2]
    headers = {name: value for name, value in as_it_is if value is not None and name != "Last-Modified"}
    # Weak: other clients get other bytes of the same.
    headers |= {"Content-Encoding": "gzip", "ETag": f'W/"{content.version}"'}
    headers["Content-Length"] = str(len(content.packed or b""))
    response = HttpResponse(content.packed, headers=headers)
    return get_conditional_response(request, etag=headers["ETag"], response=response) or response
