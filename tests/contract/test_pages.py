"""What browsers are sent: compressed where that is worth it, and with what keeps other sites out."""

import gzip
import json

import pytest

from tests.support.doors import Door, fresh_values

GZIP = ["Accept-Encoding: gzip, deflate, br", "Connection: close"]
PAGE = ["Accept: text/html", *GZIP]
# Nothing that a page holds is run unless it comes from this site, and no other site may frame it.
PROTECTED = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}


@pytest.mark.parametrize("path", ["/stats", "/traces", "/ring"])
def test_reports_are_compressed_for_who_takes_gzip(gateway: Door, path: str):
    assert gateway.infer(fresh_values(), "r1", "X-Explain: 1").status == 200  # so that there is a trace
    plain, packed = gateway.ask("GET", path), gateway.ask("GET", path, None, GZIP)
    assert (plain.status, plain.headers["vary"]) == (200, packed.headers["vary"])
    assert "Accept-Encoding" in plain.headers["vary"]
    assert packed.headers["content-encoding"] == "gzip"
    assert set(json.loads(gzip.decompress(packed.body))) == set(plain.json)
    assert "content-encoding" not in plain.headers


def test_so_are_the_pages(door: Door):
    plain, packed = door.ask("GET", "/", None, ["Accept: text/html"]), door.ask("GET", "/", None, PAGE)
    assert packed.headers["content-encoding"] == "gzip"
    assert gzip.decompress(packed.body).startswith(b"<!doctype html>")
    assert len(packed.body) < len(plain.body) / 2
    assert "set-cookie" not in packed.headers


def test_what_is_short_is_sent_as_it_is(door: Door):
    assert "content-encoding" not in door.ask("GET", "/livez", None, GZIP).headers


def test_the_admin_is_sent_as_it_is(gateway: Door):
    """It shows secrets beside what an address can have it repeat."""
    reply = gateway.ask("GET", "/admin/login/?next=/admin/", None, PAGE)
    assert (reply.status, len(reply.body) > 1000) == (200, True)
    assert "content-encoding" not in reply.headers


def test_so_are_inferences_by_every_door(door: Door):
    tensor = {"name": "input", "shape": [1, 64], "datatype": "FP32", "data": fresh_values(64)}
    for path, body in (
        ("/infer", {"request_id": "r1" * 200, "input_data": fresh_values(64)}),
        ("/v2/models/digits/infer", {"id": "r1" * 200, "inputs": [tensor]}),
    ):
        reply = door.ask("POST", path, json.dumps(body).encode(), GZIP)
        assert reply.status == 200
        assert "content-encoding" not in reply.headers
        assert ("r1" * 200).encode() in reply.body


@pytest.mark.parametrize("path", ["/", "/infer", "/health"])
def test_a_page_runs_no_script_but_this_sites(door: Door, path: str):
    reply = door.ask("GET", path, None, ["Accept: text/html"])
    assert reply.headers["content-type"].startswith("text/html")
    policy = dict(rule.split(" ", 1) for rule in reply.headers["content-security-policy"].split("; "))
    assert (policy["default-src"], policy["script-src"], policy["frame-ancestors"]) == ("'none'", "'self'", "'none'")
    assert ("unsafe-inline" in policy["style-src"]) == (path != "/")
    assert PROTECTED.items() <= reply.headers.items()


@pytest.mark.parametrize("path", ["/livez", "/nothing"])
def test_nor_is_an_answer_taken_for_a_page(door: Door, path: str):
    reply = door.ask("GET", path)
    assert reply.headers["content-type"] == "application/json"
    assert PROTECTED.items() <= reply.headers.items()


def test_the_admin_is_protected_alike_and_its_cookie_by_its_flags(gateway: Door):
    reply = gateway.ask("GET", "/admin/login/", None, ["Accept: text/html"])
    assert PROTECTED.items() <= reply.headers.items()
    assert "script-src 'self';" in reply.headers["content-security-policy"]
    cookie = reply.headers["set-cookie"].lower()
    assert cookie.startswith("csrftoken=")
    assert "samesite=lax" in cookie
    assert "no-store" in reply.headers["cache-control"]


def test_every_page_has_an_icon(door: Door):
    where = door.ask("GET", "/favicon.ico").headers["location"]
    assert door.ask("GET", where).headers["content-type"] == "image/svg+xml"
