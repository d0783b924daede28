"""Joining and the hot cache, with a router whose workers answer when the test says so."""

from __future__ import annotations

import json
from typing import Any

import pytest
from xxhash import xxh3_64_intdigest

from gateway_app.core.call import Call
from gateway_app.core.hotcache import MIN_COUNT
from gateway_app.core.policy import Policy
from gateway_app.core.ring import Ring
from gateway_app.core.router import Router
from gateway_app.face import Face
from gateway_app.inference import Inference
from inference_site.lib.frames import Cache, Tell
from inference_site.plain import PlainAsker

RESULT, REFUSED, FAILED = Tell.RESULT, Tell.REFUSED, Tell.FAILED


class Bench:
    """One worker for all keys unless told otherwise; `sent` is what it has been asked and not answered."""

    def __init__(self, names: tuple[str, ...] = ("worker_1",)) -> None:
        self.now = 0.0
        self.sent: list[Call] = []
        self.answers: list[tuple[int, bytes, dict[str, Any]]] = []
        self.router = Router(lambda: self.now)
        self.digests = dict.fromkeys(names, "model-1")
        self.inference = Inference(self.router, lambda: self.now, {name: Face(name) for name in names})
        self.router.configure(Ring(dict.fromkeys(names, 1.0), 10, xxh3_64_intdigest), (), Policy(load_factor=0.0))
        for name in names:
            self.router.routes[name].link = self
            self.router.routes[name].up = True
        self.inference.serve(self.digests)

    def send(self, call: Call) -> None:
        """Router's `Link`."""
        self.sent.append(call)

    def withdraw(self, call: Call) -> None:
        """Router's `Link`."""
        self.sent.remove(call)

    def pending(self) -> list[Call]:
        """Router's `Link`."""
        return self.sent

    def ask(self, text: str = "[1]", request_id: str = "r") -> None:
        def answer(status: int, head: bytes, body: bytes) -> None:
            self.answers.append((status, head, json.loads(body)))

        self.inference.ask(text.encode(), PlainAsker(request_id, answer))

    def serves(self, name: str, digest: str) -> None:
        """A worker answers with another file from now on."""
        self.digests[name] = digest
        self.inference.serve(self.digests)

    def answer(self, kind: Tell = RESULT, payload: bytes = b"[5]", cache: Cache = Cache.MISS) -> None:
        call = self.sent.pop(0)
        self.router.answered(call, kind, cache, 400 if kind is REFUSED else 200, payload, 3)

    def caches(self) -> list[str]:
        return [
            dict(line.split(b": ") for line in head.splitlines())[b"x-cache"].decode() for _, head, _ in self.answers
        ]


def test_what_is_in_flight_is_joined_and_asked_for_once():
    bench = Bench()
    for number in range(1000):
        bench.ask(request_id=f"r{number}")
    assert len(bench.sent) == 1
    bench.now = 0.25
    bench.answer()
    assert bench.caches() == ["miss"] + ["joined"] * 999
    assert [body["request_id"] for *_, body in bench.answers] == [f"r{number}" for number in range(1000)]
    assert {body["output_data"][0] for *_, body in bench.answers} == {5}
    assert bench.answers[1][2]["inference_time_us"] == 250_000
    bench.inference.use_hot_cache(False)
    bench.ask()
    assert len(bench.sent) == 1  # nobody joins what is over


def test_another_text_does_not_join():
    bench = Bench()
    bench.ask("[1]")
    bench.ask("[1.0]")
    assert len(bench.sent) == 2


@pytest.mark.parametrize(("kind", "payload"), [(REFUSED, b'{"error":"e","code":"c"}'), (FAILED, b"sick")])
def test_who_has_joined_shares_a_refusal_and_a_failure(kind: Tell, payload: bytes):
    bench = Bench()
    bench.ask(request_id="a")
    bench.ask(request_id="b")
    bench.answer(kind, payload)
    assert len({status for status, *_ in bench.answers}) == 1
    assert bench.answers[0][0] >= 400
    assert [body["request_id"] for *_, body in bench.answers] == ["a", "b"]
    assert all({"error", "code"} <= set(body) for *_, body in bench.answers)


def test_a_failed_leader_takes_who_joined_along_to_the_next_worker():
    bench = Bench(("worker_1", "worker_2"))
    bench.ask(request_id="a")
    bench.ask(request_id="b")
    bench.answer(FAILED, b"sick")
    bench.ask(request_id="c")
    assert len(bench.sent) == 1
    bench.answer()
    assert [(status, body["request_id"]) for status, _, body in bench.answers] == [(200, "a"), (200, "b"), (200, "c")]
    assert all(b"x-attempts: 2" in head for _, head, _ in bench.answers)


def test_the_hottest_are_answered_without_a_worker():
    bench = Bench()
    for _ in range(MIN_COUNT):
        bench.ask()
        bench.answer()
    bench.ask(request_id="hot")
    assert bench.sent == []
    assert bench.caches()[-1] == "gateway"
    assert bench.answers[-1][2] == {**bench.answers[0][2], "request_id": "hot", "cached": True, "inference_time_us": 0}
    assert b"x-attempts: 0" in bench.answers[-1][1]


def heat(bench: Bench) -> None:
    for _ in range(MIN_COUNT + 1):
        bench.ask()
        if bench.sent:
            bench.answer()
    assert bench.caches()[-1] == "gateway"


def test_another_model_ends_it_and_a_mixture_of_models_too():
    bench = Bench(("worker_1", "worker_2"))
    heat(bench)
    bench.serves("worker_1", "model-2")
    bench.ask()
    assert len(bench.sent) == 1
    bench.answer(payload=b"[6]")
    for _ in range(10):  # worker_2 still has the old model: nothing is kept meanwhile
        bench.ask()
        bench.answer(payload=b"[6]")
    bench.serves("worker_2", "model-2")
    bench.ask()
    bench.answer(payload=b"[6]")
    bench.ask()
    assert bench.answers[-1][2]["output_data"] == [6]
    assert bench.caches()[-1] == "gateway"


def test_the_switch_turns_it_off_and_on():
    bench = Bench()
    heat(bench)
    bench.inference.use_hot_cache(False)
    bench.ask()
    bench.answer(payload=b"[7]")
    assert (bench.caches()[-1], len(bench.inference.hot)) == ("miss", 0)
    bench.inference.use_hot_cache(True)
    heat(bench)


def test_a_worker_above_its_bound_passes_requests_on():
    names = ("worker_1", "worker_2", "worker_3")

    def in_flight(load_factor: float) -> list[int]:
        bench = Bench(names)
        ring = Ring(dict.fromkeys(names, 1.0), 10, xxh3_64_intdigest)
        bench.router.configure(ring, (), Policy(load_factor=load_factor, load_floor=4))
        for number in range(90):  # ninety requests that are all the same worker's
            bench.router.submit(Call(5, b"[%d]" % number))
        return sorted(route.in_flight for route in bench.router.routes.values())

    assert in_flight(0) == [0, 0, 90]
    assert max(in_flight(1.25)) <= 1.25 * 31


def test_a_late_result_of_the_model_before_is_neither_kept_nor_joined():
    bench = Bench()
    heat(bench)
    bench.ask("[2]")
    bench.ask("[2]")
    bench.serves("worker_1", "model-2")
    bench.ask("[2]", "after")
    assert len(bench.sent) == 2
    bench.answer(payload=b"[0]")
    for _ in range(MIN_COUNT):
        bench.ask("[2]")
    bench.answer(payload=b"[6]")
    assert [body["output_data"] for *_, body in bench.answers[-MIN_COUNT - 1 :]] == [[6]] * (MIN_COUNT + 1)
    bench.ask("[2]")
    assert bench.answers[-1][2]["output_data"] == [6]


def test_a_late_result_of_the_last_worker_with_the_model_before_is_not_kept_either():
    bench = Bench(("worker_1", "worker_2"))
    heat(bench)
    bench.serves("worker_1", "model-2")
    for _ in range(MIN_COUNT):
        bench.ask("[2]")
    assert len(bench.sent) == 1
    del bench.digests["worker_2"]
    bench.inference.serve(bench.digests)
    for _ in range(MIN_COUNT):
        bench.ask("[2]")
    assert len(bench.sent) == 2
    bench.answer(payload=b"[0]")
    assert len(bench.inference.hot) == 0
    bench.answer(payload=b"[6]")
    bench.ask("[2]")
    assert (bench.answers[-1][2]["output_data"], bench.caches()[-1]) == ([6], "gateway")


@pytest.mark.parametrize("broken", [0, 1])
def test_an_asker_that_cannot_take_its_answer_keeps_nobody_else_from_theirs(broken: int):
    bench = Bench()
    taken: list[int] = []

    def asker(number: int) -> None:
        def answer(status: int, head: bytes, body: bytes) -> None:
            if number == broken:
                raise RuntimeError("the handler is closed")
            taken.append(status)

        bench.inference.ask(b"[1]", PlainAsker("r", answer))

    for number in range(3):
        asker(number)
    bench.answer()
    assert taken == [200, 200]


def test_what_is_not_to_be_kept_is_neither_kept_nor_joined():
    bench = Bench()
    bench.ask()
    bench.inference.keep_results(False)
    for _ in range(MIN_COUNT + 2):
        bench.ask()
    assert len(bench.sent) == MIN_COUNT + 3
    for number in range(MIN_COUNT + 3):
        bench.answer(payload=b"[%d]" % number)
    assert [body["output_data"] for *_, body in bench.answers] == [[number] for number in range(MIN_COUNT + 3)]
    assert set(bench.caches()) == {"miss"}


def test_workers_that_are_away_say_nothing_about_what_is_kept():
    bench = Bench(("worker_1", "worker_2"))
    heat(bench)
    bench.inference.serve({})
    bench.inference.serve({"worker_2": "model-1"})
    bench.ask()
    assert bench.caches()[-1] == "gateway"
    bench.inference.serve({"worker_2": "model-1", "worker_1": "model-2"})  # another one has come back
    bench.ask()
    assert len(bench.sent) == 1


def test_a_model_of_its_own_has_keys_and_a_deadline_of_its_own():
    bench = Bench()
    bench.ask()
    bench.inference.seed, bench.inference.deadline_s = 7, 0.5
    bench.ask()
    first, second = bench.sent
    assert first.key != second.key
    assert (first.timeout_s, second.timeout_s) == (10.0, 0.5)
