"""A trace as a header: one line of ASCII that is never too long, whatever workers have said."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_site.lib.trace import (
    MAX_ATTEMPTS,
    MAX_HEADER_BYTES,
    MAX_TEXT,
    Attempt,
    BatchRun,
    Parts,
    Trace,
    header_of,
    milliseconds,
    new_id,
    refused_trace,
    shorten,
)


def trace(why: str = "owner", attempts: int = 1, reason: str = "", name: str = "worker_1") -> Trace:
    return Trace(
        "abc", "2026-11-23T10:00:00.000Z", name, "1", "0" * 16, 200, name, "miss", why, name,
        [Attempt(name, float(number), 1.5, "answered", reason) for number in range(attempts)],
        BatchRun(7, 3, 4, "free", 0), Parts(0.1, 0.0, 0.2, 0.1, 1.0, 2.0), 3.4,
    )  # fmt: skip


def read(line: bytes) -> dict:
    assert line.startswith(b"x-explain: ")
    assert line.endswith(b"\r\n")
    return json.loads(line[len(b"x-explain: ") : -2])


def test_all_of_it_is_in_the_header():
    told = read(header_of(trace(reason="is full")))
    assert told["attempts"] == [
        {"worker": "worker_1", "began_ms": 0.0, "took_ms": 1.5, "outcome": "answered", "reason": "is full"}
    ]
    assert told["batch"] == {"id": 7, "rows": 3, "requests": 4, "release": "free", "session": 0}
    assert told["parts_ms"] == {
        "gateway": 0.1, "waiting": 0.0, "network": 0.2, "worker": 0.1, "queue": 1.0, "compute": 2.0,
    }  # fmt: skip
    assert (told["status"], told["why"], told["total_ms"], told["kept"]) == (200, "owner", 3.4, "explained")


@given(st.text(max_size=500), st.text(max_size=500), st.integers(0, 40), st.text(max_size=100))
def test_it_is_one_line_of_ascii_of_bounded_length(why: str, reason: str, attempts: int, name: str):
    line = header_of(trace(why, attempts, reason, name))
    assert len(line) <= MAX_HEADER_BYTES + len(b"x-explain: \r\n")
    assert re.fullmatch(rb"x-explain: [ -~]*\r\n", line)
    told = read(line)
    assert len(told["attempts"]) <= MAX_ATTEMPTS
    assert why.startswith(told["why"].removesuffix("…"))


@pytest.mark.parametrize("text", ["\r\nset-cookie: a=b", "\x7f", "é🦊" * 300, "\\\"'" * 300])
def test_what_a_worker_says_breaks_no_header(text: str):
    line = header_of(trace(text, 50, text, text[:100]))
    assert line.count(b"\r\n") == 1
    told = read(line)
    assert told["attempts"][-1]["reason"].removesuffix("…") == text[: len(told["attempts"][-1]["reason"]) - 1] or (
        told["attempts"][-1]["reason"] == text
    )
    assert told["attempts"][-1]["began_ms"] == 49.0  # the newest are there


def test_what_no_model_has_got_is_all_the_gateways():
    told = refused_trace("gateway", 400, "x" * 1000, 0.002)
    assert (told.parts_ms.gateway, told.total_ms, told.status, told.attempts) == (2.0, 2.0, 400, [])
    assert len(told.why) == MAX_TEXT


def test_texts_and_times():
    assert shorten("short") == "short"
    assert shorten("1234567", 5) == "1234…"
    assert milliseconds(0.00012345678) == 0.1235
    assert milliseconds(-1.0) == 0.0
    assert len({new_id() for _ in range(1000)}) == 1000
    assert re.fullmatch("[0-9a-z]{10}", new_id())
