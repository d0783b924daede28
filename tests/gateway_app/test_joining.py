"""Who joins whom, for how long each waits, who may leave: any order of askers, answers and leaving, and time."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from gateway_app import inference as inference_module
from gateway_app.core.breaker import BreakerConfig
from gateway_app.core.call import Call
from gateway_app.core.policy import Policy
from gateway_app.core.ring import Ring
from gateway_app.core.router import Router
from gateway_app.face import Face
from gateway_app.inference import Inference
from inference_site.exchange import Ticket
from inference_site.lib.frames import Cache, Tell
from inference_site.plain import PlainAsker

TICK_S = 0.025
NAMES = ("worker_1", "worker_2", "worker_3")


def output(text: bytes) -> bytes:
    """What the model makes of an input: the input."""
    return text


class Asker:
    """A client with one request."""

    def __init__(self, number: int, text: bytes, deadline: float) -> None:
        self.request_id = f"r{number}"
        self.text = text
        self.deadline = deadline
        self.ticket: Ticket | None = None
        self.answers: list[tuple[int, dict[str, object]]] = []
        self.left = False

    def answer(self, status: int, head: bytes, body: bytes) -> None:
        assert not self.left, "answered although its client has left"
        self.answers.append((status, msgspec.json.decode(body)))


class Bench:
    """Three workers that answer when the test says so."""

    def __init__(self) -> None:
        self.now = 0.0
        self.askers: list[Asker] = []
        self.sent: list[Call] = []
        self.router = Router(lambda: self.now)
        self.digests = dict.fromkeys(NAMES, "model-1")
        self.inference = Inference(self.router, lambda: self.now, {name: Face(name) for name in NAMES})
        self.inference.serve(self.digests)
        breaker = BreakerConfig(failure_threshold=10**6, error_ratio=0.0)
        policy = Policy(breaker, timeout_s=1.0, load_factor=0.0, hedging=False, slow_factor=0.0)
        self.router.configure(Ring(dict.fromkeys(NAMES, 1.0), 10, xxh3_64_intdigest), (), policy)
        for name in NAMES:
            self.router.routes[name].link = self
            self.router.presence.came_up(self.router.routes[name], "1")

    def send(self, call: Call) -> None:
        """Router's `Link`."""
        self.sent.append(call)

    def withdraw(self, call: Call) -> None:
        """Router's `Link`."""
        self.sent.remove(call)

    def pending(self) -> Iterable[Call]:
        """Router's `Link`."""
        return ()

    def ask(self, text: bytes, timeout_ms: int | None = None) -> Asker:
        limit_s = 1.0 if timeout_ms is None else timeout_ms / 1000
        asker = Asker(len(self.askers), text, self.now + limit_s)
        self.askers.append(asker)
        asker.ticket = self.inference.ask(text, PlainAsker(asker.request_id, asker.answer), timeout_ms)
        return asker

    def leave(self, asker: Asker) -> None:
        asker.left = True
        if asker.ticket is not None:
            asker.ticket.cancel()

    def tell(self, number: int, kind: Tell) -> None:
        if self.sent:
            call = self.sent.pop(number % len(self.sent))
            refusal = b'{"error":"e","code":"c"}'
            payload = {Tell.RESULT: output(call.payload), Tell.REFUSED: refusal}.get(kind, b"sick")
            self.router.answered(call, kind, Cache.MISS, 422, payload, 3)

    def pass_time(self, seconds: float) -> None:
        for _ in range(round(seconds / TICK_S)):
            self.now += TICK_S
            for name in NAMES:
                self.router.attempts.expire([call for call in self.sent if call.route.name == name])
            self.router.tick()

    def waiting(self) -> list[Asker]:
        return [asker for asker in self.askers if not asker.left and not asker.answers]

    def check(self) -> None:
        for asker in self.askers:
            assert len(asker.answers) <= 1
            assert asker.left or asker.answers or self.now < asker.deadline + 2 * TICK_S, "its time is over"
            for status, body in asker.answers:
                assert body["request_id"] == asker.request_id
                assert status in (200, 422, 503, 504)
                if status == 200:
                    assert body["output_data"] == msgspec.json.decode(output(asker.text)), "another one's answer"
                elif status == 504:
                    assert self.now >= asker.deadline - 1e-9, "given up before its time was over"
        # What is computed is wanted by somebody, and nothing twice that one could wait for.
        wanted = {asker.text for asker in self.waiting()}
        assert {call.payload for call in self.sent} == wanted
        assert self.router.in_flight == len(self.sent)
        assert set(self.inference._flying) <= {call.key for call in self.sent}

    def end(self) -> None:
        while self.sent:
            self.tell(0, Tell.RESULT)
        self.check()
        assert self.inference._flying == {}
        assert not self.waiting()


@pytest.fixture(params=["real", "all the same"])
def hashes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Keys of texts. If they are all the same, every two texts are near twins."""
    if request.param != "real":
        monkeypatch.setattr(inference_module, "key_of", lambda ask, seed: 7)
    return str(request.param)


def storm(seed: int, steps: int) -> Bench:
    dice, bench = Random(seed), Bench()
    kinds = [Tell.RESULT] * 4 + [Tell.FAILED, Tell.BUSY, Tell.REFUSED]
    for _ in range(steps):
        match dice.choices(["ask", "tell", "leave", "wait", "model"], [10, 4, 4, 5, 0.2])[0]:
            case "ask":
                bench.ask(dice.choice([b"[1]", b"[1.0]", b"[2]"]), dice.choice([None, 100, 300, 1000, 3000]))
            case "tell":
                bench.tell(dice.randint(0, 99), dice.choice(kinds))
            case "leave":
                if waiting := bench.waiting():
                    bench.leave(dice.choice(waiting))
            case "wait":
                bench.pass_time(dice.choice([TICK_S, 0.1, 0.4]))
            case "model":
                bench.digests[dice.choice(NAMES)] = dice.choice(["model-1", "model-2"])
                bench.inference.serve(bench.digests)
        bench.check()
    bench.end()
    return bench


@pytest.mark.usefixtures("hashes")
def test_storms():
    assert sum(storm(seed, 120).inference.joined for seed in range(150)) > 100


@given(
    st.lists(st.tuples(st.sampled_from([None, 50, 100, 500, 2000, 600_000]), st.booleans()), min_size=1, max_size=12)
)
@settings(max_examples=60, deadline=None)
def test_each_of_those_who_have_joined_waits_as_long_as_it_said(askers: list[tuple[int | None, bool]]):
    bench = Bench()
    for timeout_ms, leaves in askers:
        asker = bench.ask(b"[1]", timeout_ms)
        bench.pass_time(TICK_S)
        if leaves and not asker.answers:
            bench.leave(asker)
        bench.check()
    while bench.waiting():
        bench.pass_time(30 * TICK_S if bench.now > 4 else TICK_S)
        if bench.now > 4:
            bench.end()
            break
        bench.check()
    statuses = {asker.deadline > 4: asker.answers[0][0] for asker in bench.askers if not asker.left}
    assert statuses.get(True, 200) == 200
    assert statuses.get(False, 504) == 504


def test_who_has_less_time_than_what_is_under_way_is_asked_for_separately():
    bench = Bench()
    bench.ask(b"[1]", 1000)
    hasty = bench.ask(b"[1]", 100)
    assert len(bench.sent) == 2
    bench.pass_time(0.2)
    assert [status for status, _ in hasty.answers] == [504]
    assert len(bench.sent) == 1
    bench.end()


def test_somebody_with_a_lot_of_time_does_not_keep_the_others_from_joining_each_other():
    bench = Bench()
    patient = bench.ask(b"[1]", 600_000)
    others = [bench.ask(b"[1]") for _ in range(100)]
    assert len(bench.sent) == 2
    bench.end()
    assert all([status for status, _ in asker.answers] == [200] for asker in (patient, *others))


def test_the_first_ones_client_may_leave_and_the_others_get_their_answers():
    bench = Bench()
    askers = [bench.ask(b"[1]") for _ in range(1000)]
    bench.leave(askers[0])
    assert len(bench.sent) == 1
    bench.tell(0, Tell.RESULT)
    assert all([status for status, _ in asker.answers] == [200] for asker in askers[1:])
    assert askers[0].answers == []


def test_when_all_have_left_nothing_more_is_done():
    bench = Bench()
    askers = [bench.ask(b"[1]") for _ in range(10)]
    for asker in askers:
        assert len(bench.sent) == 1
        bench.leave(asker)
    assert bench.sent == []
    assert bench.router.in_flight == 0
    assert bench.router.cancelled == 1
    assert bench.inference._flying == {}
    bench.ask(b"[1]")
    assert len(bench.sent) == 1  # nobody joins what has been given up


def test_a_ticket_that_comes_too_late_does_no_harm():
    bench = Bench()
    first, second = bench.ask(b"[1]"), bench.ask(b"[1]")
    bench.tell(0, Tell.RESULT)
    third = bench.ask(b"[1]")
    for asker in (first, second):
        bench.leave(asker)
    assert len(bench.sent) == 1
    bench.tell(0, Tell.RESULT)
    assert [status for status, _ in third.answers] == [200]


def test_near_twins_neither_join_nor_share_what_is_kept(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(inference_module, "key_of", lambda ask, seed: 7)
    bench = Bench()
    for _ in range(10):
        askers = [bench.ask(text) for text in (b"[1]", b"[2]", b"[1]")]
        while bench.sent:
            bench.tell(0, Tell.RESULT)
        assert [asker.answers[0][1]["output_data"] for asker in askers] == [[1], [2], [1]]
    assert bench.inference.hot.hits


def test_who_joined_does_not_ask_again_and_again_for_what_no_queue_has_time_for() -> None:
    bench = Bench()
    first = bench.ask(b"[1]")
    bench.now += 0.005
    second = bench.ask(b"[1]")
    asked = 0
    while bench.sent and asked < 100:
        asked += 1
        bench.router.answered(bench.sent.pop(), Tell.BUSY, 0, 503, b"", 20_000_000)
    assert asked == len(NAMES)
    assert [status for asker in (first, second) for status, _ in asker.answers] == [504, 504]
