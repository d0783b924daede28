"""Static files: compressed for who takes it, kept for good under the address of their version."""

import gzip
import re
from pathlib import Path
from typing import Any

import pytest
from django.contrib.staticfiles import finders
from django.templatetags.static import static

from inference_site.staticfiles import content_of

SCRIPT, ICON_FONT = "vendor/uplot/uPlot.iife.min.js", "rest_framework/fonts/fontawesome-webfont.woff"
GZIP = {"Accept-Encoding": "gzip, deflate, br"}


@pytest.fixture
def get(async_client: Any) -> Any:
    async def ask(address: str, method: str = "get", **headers: str) -> Any:
        response = await getattr(async_client, method)(address, headers=headers)
        is_async = getattr(response, "is_async", False)  # the client makes a list of what a HEAD or a 304 leaves out
        response.body = b"".join([part async for part in response] if is_async else response)
        return response

    return ask


def whole(name: str) -> bytes:
    found = finders.find(name)
    assert isinstance(found, str)
    return Path(found).read_bytes()


async def test_a_script_is_compressed_for_who_takes_gzip(get: Any) -> None:
    response = await get(static(SCRIPT), **GZIP)
    assert (response.status_code, response["Content-Encoding"], response["Vary"]) == (200, "gzip", "Accept-Encoding")
    assert response["Content-Type"].startswith("text/javascript")
    assert gzip.decompress(response.body) == whole(SCRIPT)
    assert int(response["Content-Length"]) == len(response.body) < len(whole(SCRIPT)) / 2


@pytest.mark.parametrize("accepts", [None, "identity", "br", "gzip;q=0", "deflate"])
async def test_who_does_not_gets_it_as_it_is(get: Any, accepts: str | None) -> None:
    response = await get(static(SCRIPT), **({} if accepts is None else {"Accept-Encoding": accepts}))
    assert (response.status_code, response["Vary"]) == (200, "Accept-Encoding")
    assert "Content-Encoding" not in response
    assert response.body == whole(SCRIPT)
    assert int(response["Content-Length"]) == len(response.body)


async def test_what_is_packed_by_its_format_is_sent_as_it_is(get: Any) -> None:
    response = await get(static(ICON_FONT), **GZIP)
    assert response.status_code == 200
    assert "Content-Encoding" not in response
    assert "Vary" not in response
    assert response.body == whole(ICON_FONT)


async def test_the_head_alone_is_that_of_the_whole(get: Any) -> None:
    response, head = await get(static(SCRIPT), **GZIP), await get(static(SCRIPT), "head", **GZIP)
    assert head.body == b""
    assert head.headers == response.headers


async def test_what_a_browser_has_is_not_sent_again(get: Any) -> None:
    for headers in (GZIP, {}):
        first = await get(static(SCRIPT), **headers)
        again = await get(static(SCRIPT), **headers, **{"If-None-Match": first["ETag"]})
        assert (again.status_code, again.body) == (304, b"")
        assert (again["ETag"], again["Vary"]) == (first["ETag"], "Accept-Encoding")
        other = await get(static(SCRIPT), **headers, **{"If-None-Match": '"another"'})
        assert (other.status_code, other.body) == (200, first.body)


async def test_different_bytes_have_no_strong_tag_in_common(get: Any) -> None:
    packed, plain = await get(static(SCRIPT), **GZIP), await get(static(SCRIPT))
    assert packed["ETag"].startswith('W/"')
    assert packed["ETag"] != plain["ETag"]


async def test_a_range_is_one_of_the_file_itself(get: Any) -> None:
    response = await get(static(SCRIPT), **GZIP, Range="bytes=10-19")
    assert (response.status_code, response.body) == (206, whole(SCRIPT)[10:20])
    assert response["Content-Range"] == f"bytes 10-19/{len(whole(SCRIPT))}"
    assert "Content-Encoding" not in response
    assert (await get(static(SCRIPT), **GZIP, Range="bytes=999999999-")).status_code == 416


async def test_an_address_has_the_version_of_its_file_and_is_kept_for_good(get: Any) -> None:
    content = content_of(SCRIPT)
    assert content is not None
    assert static(SCRIPT) == f"/static/{SCRIPT}?v={content.version}"
    assert re.fullmatch(r"[0-9a-f]{16}", content.version)
    for headers in (GZIP, {}):
        assert (await get(static(SCRIPT), **headers))["Cache-Control"] == "max-age=31536000, public, immutable"


async def test_another_version_is_asked_for_again(get: Any) -> None:
    """While gateways are upgraded, a new one's page may ask an old one for its scripts."""
    for headers in (GZIP, {}):
        assert (await get(f"/static/{SCRIPT}?v=0123456789abcdef", **headers))["Cache-Control"] == "no-cache"
        assert (await get(f"/static/{SCRIPT}", **headers))["Cache-Control"] == "max-age=60, public"


async def test_every_file_that_a_page_may_name_is_served(get: Any) -> None:
    for name in ("inference/page.css", "inference/icon.svg", "admin/css/base.css", "rest_framework/css/default.css"):
        response = await get(static(name), **GZIP)
        body = response.body
        assert (gzip.decompress(body) if response.headers.get("Content-Encoding") else body) == whole(name)


@pytest.mark.parametrize("name", ["nothing.js", "../settings.py", "inference/", "%00.css", "inference/..%2fpage.css"])
async def test_what_is_no_file_is_404(get: Any, name: str) -> None:
    assert (await get(f"/static/{name}", **GZIP)).status_code == 404


@pytest.mark.parametrize("method", ["post", "put", "delete"])
async def test_files_are_only_read(get: Any, method: str) -> None:
    response = await get(static(SCRIPT), method, **GZIP)
    assert response.status_code == 405
    assert "Cache-Control" not in response


def test_a_file_that_is_not_there_has_an_address_without_a_version() -> None:
    assert static("inference/nothing.css") == "/static/inference/nothing.css"


def test_developers_see_their_changes_at_once(settings: Any) -> None:
    settings.DEBUG = True
    assert static(SCRIPT) == f"/static/{SCRIPT}"
