"""Rows 8, 9 and 29: a connection that is cut or carries garbage, and a stranger at a worker's port."""

import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from inference_site.lib import frames
from inference_site.lib.frames import Tell
from tests.faults.figures import Figures, scaled
from tests.faults.proxy import End, Fault, Proxies
from tests.faults.sickbay import CAPACITY, Sickbay
from tests.support.cluster import Server
from tests.support.load import Case
from tests.support.openload import OpenLoad
from tests.support.processes import wait_until
from tests.support.waiting import PATIENCE_S

Fresh = Callable[[int], list[Case]]
Reply = tuple[int, int, int, int, int, bytes, int]  # kind, cache, status, id, µs, payload, check
VICTIM = "worker_2"
RATE = scaled(CAPACITY / 6, CAPACITY / 4)


def rewriting(change: Callable[[Reply], bytes]) -> Callable[[bytes], bytes]:
    """Changes each result in a message and leaves the other frames as they are."""

    def rewrite(message: bytes) -> bytes:
        return b"".join(change(each) if each[0] == Tell.RESULT else _as_is(each) for each in frames.tells(message))

    return rewrite


def _as_is(reply: Reply) -> bytes:
    kind, cache, status, ident, time_us, payload, check = reply
    return frames.tell(kind, ident, payload, status, cache, time_us, check)


def _with(payload: Callable[[bytes], bytes] = bytes, ident: Callable[[int], int] = int) -> Callable[[Reply], bytes]:
    return lambda each: _as_is((*each[:3], ident(each[3]), each[4], payload(each[5]), each[6]))


def _too_long(reply: Reply) -> bytes:
    kind, cache, status, ident, time_us, payload, check = reply
    return frames.pack_tell_head(kind, cache, status, ident, len(payload) + 1000, time_us, check) + payload


def _turn_ids(message: bytes) -> bytes:
    """Gives each result of a message to the request of the next one, if there are two."""
    replies = frames.tells(message)
    turned = deque(each[3] for each in replies if each[0] == Tell.RESULT)
    turned.rotate()
    return b"".join(
        _as_is((*each[:3], turned.popleft(), *each[4:])) if each[0] == Tell.RESULT else _as_is(each) for each in replies
    )


# What a worker may say instead of its results.
GARBAGE = {
    "not the protocol": Fault(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"),
    "not a frame": Fault(rewrite=lambda message: b"\x07garbage"),
    "a length beyond the message": Fault(rewrite=rewriting(_too_long)),
    "an unknown kind": Fault(rewrite=rewriting(lambda each: _as_is((15, *each[1:])))),
    "half of the JSON": Fault(rewrite=rewriting(_with(lambda payload: payload[: len(payload) // 2]))),
    "no JSON": Fault(rewrite=rewriting(_with(lambda payload: b"\xff" * len(payload)))),
    "an object": Fault(rewrite=rewriting(_with(lambda payload: b'{"a":1}'))),
    "a string in it": Fault(rewrite=rewriting(_with(lambda payload: b'["1",2,3,4]'))),
    "nothing": Fault(rewrite=rewriting(_with(lambda payload: b""))),
    "nested": Fault(rewrite=rewriting(_with(lambda payload: b"[%b]" % payload))),
    "one value less": Fault(rewrite=rewriting(_with(lambda payload: payload[: payload.rindex(b",")] + b"]"))),
    "nobody's id": Fault(rewrite=rewriting(_with(ident=lambda ident: ident + 1_000_000))),
    "each other's ids": Fault(rewrite=_turn_ids),
    "another's output": Fault(rewrite=rewriting(_with(lambda payload: b"[9.0,9.0,9.0,9.0]"))),
    "twice": Fault(rewrite=lambda message: message + message),
}


@pytest.mark.row(8)
def test_a_connection_that_is_cut_costs_no_request(
    proxied: tuple[Sickbay, Proxies], fresh: Fresh, figures: Figures
) -> None:
    fleet, proxies = proxied
    before = second_attempts(fleet)
    cut = 0
    with (
        fleet.tuned(open_seconds=0.2),
        OpenLoad(fleet.gateway_url, fresh(20_000), rate=RATE) as load,
    ):
        for _ in range(int(scaled(1, 20))):
            for end in End:
                load.wait_for(50)
                assert proxies.of[VICTIM].inject(Fault(end)).wait(PATIENCE_S), f"no result in which to be {end}"
                cut += 1
                load.wait_for_node(VICTIM)
    report = load.report
    report.assert_no_failure()
    again = sum(each.attempts == 2 for each in report.answers)
    assert max(each.attempts for each in report.answers) == 2
    assert second_attempts(fleet) - before >= cut
    figures.say(f"{cut} cuts", f"{again} requests asked again once", f"0 failed of {len(report.answers):,}")


def second_attempts(fleet: Sickbay) -> int:
    """After a first one that failed, or beside one that takes long."""
    found = fleet.stats()["gateway"]
    return int(found["retries"] + found["hedges"])


@pytest.mark.row(9)
def test_garbage_is_a_failure_of_that_worker(proxied: tuple[Sickbay, Proxies], fresh: Fresh, figures: Figures) -> None:
    fleet, proxies = proxied
    # Half of them come several times: whatever was cached wrongly is seen. The others always reach a worker.
    few, cases = fresh(200), fresh(20_000)
    cases[::2] = few * (len(cases) // 2 // len(few))
    found = []
    with (
        fleet.tuned(cache_entries=0, open_seconds=0.2),
        OpenLoad(fleet.gateway_url, cases, rate=RATE) as load,
    ):
        for name, fault in GARBAGE.items():
            load.wait_for(30)
            failures = len(load.report.failures)
            assert proxies.of[VICTIM].inject(fault).wait(PATIENCE_S), f"no result in which to send {name}"
            load.wait_for(30)
            load.wait_for_node(VICTIM)
            found += [f"{name}: {each.cause} {each.detail}"[:300] for each in load.report.failures[failures:]]
        load.wait_for(30)
    assert not found, "\n".join(found)
    load.report.assert_no_failure()
    figures.say(f"{len(GARBAGE)} kinds of garbage, none delivered", f"0 failed of {len(load.report.answers):,}")


class Stranger:
    """Some other service at a port: it reads what comes and answers everything with a page."""

    def __init__(self, port: int) -> None:
        self.heard = b""
        self._socket = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                visitor, _ = self._socket.accept()
                with visitor, suppress(OSError):
                    visitor.settimeout(PATIENCE_S)
                    self.heard += visitor.recv(65536)
                    visitor.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
                    self.heard += visitor.recv(65536)


@contextmanager
def stranger(fleet: Sickbay, cases: list[Case]) -> Iterator[None]:
    service = Stranger(fleet.own_ports[VICTIM])
    try:
        yield
        wait_until("the gateway has called", lambda: service.heard.lower().count(b"upgrade: websocket") >= 2)
    finally:
        service.close()
    assert not any(case.text in service.heard for case in cases)


@contextmanager
def impostor(fleet: Sickbay, name: str, token: str, complaint: str) -> Iterator[None]:
    """A worker with this name and secret at the port of another."""
    port = fleet.own_ports[VICTIM]
    env = {**fleet.env, "INFERENCE_TOKEN": token}
    url = f"http://127.0.0.1:{port}"
    with Server(["runnode", str(port), name, str(fleet.model)], url, env) as server:
        server.wait_ready()
        yield
        wait_until(complaint, lambda: complaint in fleet.worker(VICTIM)["last_error"])
        assert fleet.get("/health", url=server.url)["total_requests"] == 0


@pytest.mark.row(29)
def test_a_stranger_at_a_workers_port_gets_no_data(fleet: Sickbay, fresh: Fresh, figures: Figures) -> None:
    cases = fresh(20_000)
    with OpenLoad(fleet.gateway_url, cases, rate=RATE) as load:
        load.wait_for(30)
        fleet.kill(VICTIM)
        with stranger(fleet, cases):
            load.wait_for(100)
        token = fleet.env["INFERENCE_TOKEN"]
        with impostor(fleet, "worker_9", token, "there is 'worker_9', not 'worker_2'"):
            load.wait_for(50)
        with impostor(fleet, VICTIM, "another secret", "INFERENCE_TOKEN"):
            load.wait_for(50)
        assert not fleet.worker(VICTIM)["connected"]
        fleet.start(VICTIM)
        load.wait_for_node(VICTIM)
    load.report.assert_no_failure()
    figures.say("another service, another worker and one without the secret: no data sent", "0 failed")
