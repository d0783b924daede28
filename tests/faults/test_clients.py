"""Rows 12 and 14 to 16: clients that send nonsense, too much, too slowly, or nothing at all."""

import gzip
import socket
import time
from collections.abc import Callable
from contextlib import suppress

import pytest

from inference_site.connection import MESSAGE_S
from tests.faults.figures import FULL, Figures, scaled
from tests.faults.measures import forget_peak, peak_kb, resident_kb
from tests.faults.sickbay import CAPACITY, USUAL, Sickbay, connected
from tests.support.load import Case
from tests.support.openload import OpenLoad
from tests.support.processes import wait_until
from tests.support.waiting import PATIENCE_S
from tests.support.wire import Wire, post

Fresh = Callable[[int], list[Case]]
LIMIT_BYTES = 16 * 2**20
CASES = 20_000
DEEP = b"[" * 100_000 + b"]" * 100_000


def asking(values: bytes) -> bytes:
    return b'{"request_id":"x","input_data":%b}' % values


# What is no input, and what is no JSON, with the codes that are documented for it.
NONSENSE = {
    "NaN": (asking(b"[NaN]"), {"invalid_json", "invalid_input_data"}),
    "-Infinity": (asking(b"[-Infinity]"), {"invalid_json", "invalid_input_data"}),
    "1e999": (asking(b"[1e999]"), {"invalid_input_data"}),
    "4,301 digits": (asking(b"[" + b"9" * 4301 + b"]"), {"invalid_input_data", "invalid_json"}),
    "an escaped lone surrogate": (asking(b'["\\ud800"]'), {"invalid_input_data", "invalid_json"}),
    "a lone surrogate": (b'{"request_id":"\xed\xa0\x80","input_data":[1]}', {"invalid_encoding"}),
    "invalid UTF-8": (b'{"request_id":"\xff\xfe","input_data":[1]}', {"invalid_encoding"}),
    "nested": (asking(DEEP), {"nested_too_deep", "invalid_input_data", "invalid_json"}),
    "nested elsewhere": (
        b'{"request_id":"x","more":%b,"input_data":[1]}' % DEEP,
        {"nested_too_deep", "invalid_json"},
    ),
}


@pytest.mark.row(12)
def test_nonsense_is_refused_soon_and_leaves_nothing_behind(fleet: Sickbay, figures: Figures) -> None:
    pid = fleet.pid("gateway")
    took: list[float] = []

    def send_all(wire: Wire) -> None:
        for name, (body, codes) in NONSENSE.items():
            began = time.monotonic()
            reply = wire.ask(post(body))
            took.append(time.monotonic() - began)
            assert (reply.status, reply.json["code"] in codes) == (400, True), (name, reply.body)

    errors = fleet.stats()["gateway"]["errors"]
    with Wire(*fleet.gateway_address, timeout_s=PATIENCE_S) as wire:
        send_all(wire)
        before_kb = resident_kb(pid)
        for _ in range(int(scaled(30, 1000))):
            send_all(wire)
    grown_kb = resident_kb(pid) - before_kb
    p99_ms = sorted(took)[int(0.99 * len(took))] * 1000
    figures.say(f"{len(took):,} × 400")
    figures.aim(p99_ms < 50, f"p99 {p99_ms:.1f} ms")
    figures.say(f"{grown_kb / 1024:+.1f} MB")
    assert grown_kb < 20_000
    assert fleet.stats()["gateway"]["errors"] == errors


def over_the_limit(wire: Wire) -> None:
    wire.send(b"POST /infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % (LIMIT_BYTES + 1))


def without_end(wire: Wire) -> None:
    wire.send(b"POST /infer HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
    piece = b"10000\r\n" + b"1" * 2**16 + b"\r\n"
    with suppress(ConnectionError):  # it is refused before all of it has come
        for _ in range(LIMIT_BYTES // 2**16 + 2):
            wire.send(piece)


def bomb(wire: Wire) -> None:
    wire.send(post(BOMB, "Content-Encoding: gzip"))


BOMB = gzip.compress(b"1" * 2**28)  # a quarter of a GiB in as many KiB


@pytest.mark.row(14)
def test_bodies_beyond_the_limit_take_no_more_memory_than_it(fleet: Sickbay, fresh: Fresh, figures: Figures) -> None:
    pid, connections = fleet.pid("gateway"), int(scaled(4, 20))
    forget_peak(pid)
    before_kb = resident_kb(pid)
    with OpenLoad(fleet.gateway_url, fresh(CASES), rate=CAPACITY / 10) as load:
        for _ in range(int(scaled(1, 5))):
            for send in (over_the_limit, without_end, bomb):
                wires = [Wire(*fleet.gateway_address, timeout_s=PATIENCE_S) for _ in range(connections)]
                for wire in wires:
                    send(wire)
                for wire in wires:
                    reply = wire.read()
                    assert (reply.status, reply.json["code"]) == (413, "body_too_large"), (send.__name__, reply)
                    wire.socket.close()
        load.wait_for(20)
    load.report.assert_no_failure()
    grown_kb = peak_kb(pid) - before_kb
    figures.say(f"413, at most {grown_kb / 1024:+.0f} MB for {connections} connections")
    assert grown_kb * 1024 <= LIMIT_BYTES * connections + 20_000_000
    if FULL:
        with Wire(*fleet.gateway_address, timeout_s=3.0 * MESSAGE_S) as wire:
            wire.send(post(asking(b"[1]"))[:-1])
            began = time.monotonic()
            assert wire.read().json["code"] == "request_timeout"
            figures.say(f"408 after {time.monotonic() - began:.0f} s for what never ends")


def dribble(clients: list[socket.socket], text: bytes, until: Callable[[], bool]) -> dict[socket.socket, float]:
    """Each sends a byte a second, and again from the beginning; when each of those was closed that are."""
    closed: dict[socket.socket, float] = {}
    for each in clients:
        each.setblocking(False)
    for turn in range(10_000):
        began = time.monotonic()
        for number, each in enumerate(clients):
            if each not in closed:
                place = (number + turn) % len(text)
                try:
                    each.send(text[place : place + 1])
                    if each.recv(4096) == b"":
                        closed[each] = began
                except BlockingIOError:
                    pass
                except OSError:
                    closed[each] = began
        if until():
            return closed
        time.sleep(max(0.0, began + 1 - time.monotonic()))
    raise AssertionError("it has no end")


@pytest.mark.row(15)
def test_clients_that_send_a_byte_a_second_do_not_slow_the_others(
    fleet: Sickbay, fresh: Fresh, figures: Figures
) -> None:
    count, watched_s = int(scaled(200, 1000)), scaled(2, 2 * MESSAGE_S)
    with OpenLoad(fleet.gateway_url, fresh(CASES), rate=USUAL) as load:
        load.wait_for(int(scaled(100, 3000)))
        began = time.monotonic()
        with connected(fleet, count) as slow:
            for number, each in enumerate(slow):
                head = b"POST /infer HTTP/1.1\r\nHost: localhost\r\n"
                each.sendall(head + (b"X-Slow: " if number % 2 else b"Content-Length: 1000\r\n\r\n"))
            closed = dribble(slow, b"1", lambda: time.monotonic() > began + watched_s)
    report = load.report
    report.assert_no_failure()
    before, after = report.quantile_ms(0.99, until=began), report.quantile_ms(0.99, since=began)
    figures.aim(after <= 1.5 * before, f"p99 of the others {before:.0f} ms → {after:.0f} ms")
    figures.say("0 failed")
    if FULL:
        assert len(closed) == count, f"{count - len(closed)} are still there after {watched_s:g} s"
        figures.say(f"all {count:,} closed within {max(closed.values()) - began:.0f} s")


@pytest.mark.row(16)
def test_idle_connections_cost_next_to_nothing(fleet: Sickbay, fresh: Fresh, figures: Figures) -> None:
    pid, count = fleet.pid("gateway"), int(scaled(1_000, 10_000))
    one = fresh(1)[0].request("idle", "localhost")
    cases = fresh(CASES)
    with OpenLoad(fleet.gateway_url, cases, rate=USUAL) as alone:
        alone.wait_for(int(scaled(100, 3000)))
    before_kb = resident_kb(pid)
    with connected(fleet, count) as idle:
        for each in idle:
            each.sendall(one)
            assert each.recv(4096).startswith(b"HTTP/1.1 200 ")
        # Without the load: whoever is stopped for a moment makes it open connections of its own.
        each_kb = (resident_kb(pid) - before_kb) / count
        with OpenLoad(fleet.gateway_url, cases[::-1], rate=USUAL) as beside:
            beside.wait_for(int(scaled(100, 3000)))
        for each in idle:
            each.setblocking(False)
            with pytest.raises(BlockingIOError):  # it is still there
                each.recv(1)
    for load in (alone, beside):
        load.report.assert_no_failure()
    before, after = alone.report.quantile_ms(0.99), beside.report.quantile_ms(0.99)
    figures.say(f"{count:,} connections", "0 failed")
    figures.aim(each_kb <= 30, f"{each_kb:.1f} KB each")
    figures.aim(after <= 2 * before, f"p99 {before:.0f} ms → {after:.0f} ms")
    assert each_kb <= 60
    wait_until("the gateway has noticed", lambda: fleet.stats()["gateway"]["in_flight"] == 0)
