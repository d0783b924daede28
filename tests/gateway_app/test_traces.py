"""Which requests are traced, what a trace says, and how many are kept."""

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
from gateway_app.traces import ENOUGH, KEPT, PER_SECOND, TraceLog
from inference_site.lib.frames import Cache, Tell
from inference_site.lib.trace import BatchRun, Detail
from inference_site.plain import PlainAsker

RAN = Detail(1_000, 2_000, BatchRun(7, 3, 4, "free", 0))
NAMES = ("worker_1", "worker_2")


class Bench:
    """Workers that answer when the test says so; `heads` are the header lines of all answers."""

    def __init__(self, names: tuple[str, ...] = NAMES) -> None:
        self.now = 100.0
        self.sent: list[Call] = []
        self.heads: list[bytes] = []
        self.bodies: list[dict[str, Any]] = []
        self.router = Router(lambda: self.now)
        self.log = TraceLog()
        self.inference = Inference(self.router, lambda: self.now, {name: Face(name) for name in names}, traces=self.log)
        self.inference.tracer.name, self.inference.tracer.version = "digits", "3"
        policy = Policy(load_factor=0.0, hedging=False, slow_start_s=0.0)
        self.router.configure(Ring(dict.fromkeys(names, 1.0), 10, xxh3_64_intdigest), (), policy)
        for name in names:
            self.router.routes[name].link = self
            self.router.routes[name].up = True
        self.inference.serve(dict.fromkeys(names, "model-1"))

    def send(self, call: Call) -> None:
        self.sent.append(call)

    def withdraw(self, call: Call) -> None:
        self.sent.remove(call)

    def pending(self) -> list[Call]:
        return self.sent

    def ask(self, text: str = "[1]", *, explain: bool = True, began_s: float = 0.0) -> Any:
        """`began_s` ago it had come whole."""

        def answer(status: int, head: bytes, body: bytes) -> None:
            self.heads.append(head)
            self.bodies.append(json.loads(body))

        since = self.now - began_s if explain else None
        return self.inference.ask(text.encode(), PlainAsker("r", answer), None, since)

    def answer(
        self,
        kind: Tell = Tell.RESULT,
        payload: bytes = b"[5]",
        cache: Cache = Cache.MISS,
        took_s: float = 0.01,
        time_us: int = 5_000,
        detail: Detail | None = None,
    ) -> None:
        """The oldest call has its answer, so long after this."""
        self.now += took_s
        call = self.sent.pop(0)
        if detail is not None and call.trace is not None:
            call.trace.detailed(call, detail)
        self.router.answered(call, kind, cache, 400 if kind is Tell.REFUSED else 200, payload, time_us)

    def explained(self) -> list[dict[str, Any]]:
        """What the answers say of themselves; {} of one that says nothing."""
        lines = [[each for each in head.splitlines() if each.startswith(b"x-explain: ")] for head in self.heads]
        return [json.loads(each[0].partition(b": ")[2]) if each else {} for each in lines]


def check_sum(trace: dict[str, Any]) -> None:
    parts = sum(part or 0.0 for part in trace["parts_ms"].values())
    assert parts == pytest.approx(trace["total_ms"], abs=0.001)


def test_a_miss():
    bench = Bench()
    bench.ask(began_s=0.002)
    bench.answer(detail=RAN)
    (told,) = bench.explained()
    owner = bench.router.ring.owners(int(told["key"], 16))[0]
    assert (told["model"], told["version"], told["status"], told["cache"]) == ("digits", "3", 200, "miss")
    assert (told["answered_by"], told["owner"], told["why"]) == (owner, owner, "owner")
    assert told["batch"] == {"id": 7, "rows": 3, "requests": 4, "release": "free", "session": 0}
    assert told["parts_ms"] == pytest.approx(
        {"gateway": 2.0, "waiting": 0.0, "network": 5.0, "worker": 2.0, "queue": 1.0, "compute": 2.0}
    )
    assert told["total_ms"] == pytest.approx(12.0)
    assert told["attempts"] == [
        {"worker": owner, "began_ms": 2.0, "took_ms": 10.0, "outcome": "answered", "reason": ""}
    ]
    assert bench.log.recent() == [told]


def test_nobody_else_is_explained():
    bench = Bench()
    bench.ask(explain=False)
    bench.answer()
    assert bench.explained() == [{}]
    assert bench.log.recent() == []


def test_a_hit_of_the_worker_and_one_of_the_gateway():
    bench = Bench()
    bench.ask()
    bench.answer(cache=Cache.HIT, took_s=0.001, time_us=30)
    for _ in range(MIN_COUNT - 1):
        bench.ask(explain=False)
        bench.answer()
    bench.ask(began_s=0.0005)
    hit, *_, kept = bench.explained()
    assert (hit["cache"], hit["batch"]) == ("hit", None)
    assert hit["parts_ms"] == pytest.approx(
        {"gateway": 0.0, "waiting": 0.0, "network": 0.97, "worker": 0.03, "queue": 0.0, "compute": 0.0}
    )
    assert (kept["cache"], kept["answered_by"], kept["attempts"]) == ("gateway", "gateway", [])
    assert kept["why"] == f"kept here: one of the hottest results, made by {hit['answered_by']}"
    assert (kept["parts_ms"]["gateway"], kept["total_ms"]) == (0.5, 0.5)


@pytest.mark.parametrize("leader_is_explained", [True, False])
def test_who_has_joined_says_whom(leader_is_explained: bool):
    bench = Bench()
    bench.ask(explain=leader_is_explained)
    bench.now += 0.004
    bench.ask(began_s=0.001)
    assert len(bench.sent) == 1
    bench.answer(detail=RAN)
    told = bench.explained()[1]
    owner = told["owner"]
    assert (told["cache"], told["answered_by"]) == ("joined", owner)
    assert told["why"] == "joined a request for the same input that had come 4.0 ms before"
    assert (told["parts_ms"]["gateway"], told["parts_ms"]["waiting"], told["total_ms"]) == (1.0, 10.0, 11.0)
    assert (told["batch"] is not None) == leader_is_explained
    if leader_is_explained:
        assert told["attempts"] == [
            {"worker": owner, "began_ms": -3.0, "took_ms": 14.0, "outcome": "answered", "reason": ""}
        ]


def test_who_is_left_behind_by_whom_it_had_joined_says_so():
    bench = Bench()
    bench.ask(explain=False)
    bench.now += 0.5
    bench.ask()
    bench.now = bench.sent[0].deadline
    bench.router.attempts.expire(tuple(bench.sent))
    bench.answer()
    told = bench.explained()[1]
    assert told["status"] == 200
    assert told["why"] == "the request for the same input that it had joined has run out of time; it went on alone"
    check_sum(told)


def test_earlier_attempts_are_waiting():
    bench = Bench()
    bench.ask(began_s=0.001)
    bench.answer(Tell.FAILED, b"sick", took_s=0.05)
    bench.answer(took_s=0.01, detail=RAN)
    (told,) = bench.explained()
    assert [each["outcome"] for each in told["attempts"]] == ["failed", "answered"]
    assert told["attempts"][0]["reason"] == "sick"
    assert told["why"] == f"next in line: {told['owner']}: it was asked before"
    assert (told["parts_ms"]["gateway"], told["parts_ms"]["waiting"]) == pytest.approx((1.0, 50.0))
    assert told["total_ms"] == pytest.approx(61.0)
    check_sum(told)


def test_a_refusal_of_the_worker():
    bench = Bench()
    bench.ask()
    bench.answer(Tell.REFUSED, b'{"error":"it has 3 values","code":"c"}')
    (told,) = bench.explained()
    assert (told["status"], told["cache"], told["why"]) == (400, None, "owner")
    assert told["attempts"][0]["reason"] == "it has 3 values"
    assert told["answered_by"] == told["owner"]
    check_sum(told)


def test_what_nobody_could_answer():
    bench = Bench()
    bench.ask(began_s=0.001)
    bench.answer(Tell.FAILED, b"sick\r\nx-evil: 1", took_s=0.02)
    bench.answer(Tell.FAILED, b"sick too", took_s=0.03)
    (told,) = bench.explained()
    assert (told["status"], told["answered_by"], told["cache"]) == (503, "gateway", None)
    assert told["why"] == bench.bodies[0]["error"]
    assert (told["parts_ms"]["gateway"], told["parts_ms"]["waiting"]) == pytest.approx((1.0, 50.0))
    assert bench.heads[0].count(b"\r\n") == 3  # x-attempts, retry-after, x-explain
    check_sum(told)


def test_who_is_sent_to_nobody():
    bench = Bench(())
    bench.ask(began_s=0.25)
    (told,) = bench.explained()
    assert (told["status"], told["owner"], told["attempts"]) == (503, "", [])
    assert (told["parts_ms"]["gateway"], told["total_ms"]) == (250.0, 250.0)


def test_an_ask_that_is_too_large():
    bench = Bench()
    bench.inference.most_bytes = 10
    bench.ask("[" + "1," * 10 + "1]")
    (told,) = bench.explained()
    assert (told["status"], told["attempts"]) == (413, [])
    assert told["why"] == bench.bodies[0]["error"]


def test_a_worker_that_says_it_took_longer_than_it_did():
    bench = Bench()
    bench.ask()
    bench.answer(took_s=0.001, time_us=10**9, detail=Detail(10**9, 10**9))
    (told,) = bench.explained()
    assert told["parts_ms"] == pytest.approx(
        {"gateway": 0.0, "waiting": 0.0, "network": 0.0, "worker": 0.0, "queue": 1.0, "compute": 0.0}
    )
    check_sum(told)


def test_an_explanation_that_fails_costs_nobody_the_answer(monkeypatch: pytest.MonkeyPatch):
    bench = Bench()
    bench.ask()
    monkeypatch.setattr(bench.inference.tracer, "trace", lambda *_: 1 / 0)
    bench.answer()
    assert bench.explained() == [{}]
    assert bench.bodies[0]["output_data"] == [5]


def test_who_leaves_is_not_kept():
    bench = Bench()
    bench.ask().cancel()
    assert bench.sent == []
    assert bench.log.recent() == []


# --- Unasked ---------------------------------------------------------------------------------------------------------


def test_one_of_each_seconds_requests_is_sampled():
    bench = Bench()
    per_second = 50
    for _ in range(20):
        bench.inference.roll(per_second)
        bench.log.roll()
        for number in range(per_second):
            bench.ask(f"[{bench.now}, {number}]", explain=False)
            bench.answer(took_s=0.0)
        bench.now += 1
    kept = bench.log.recent()
    assert bench.explained() == [{}] * 20 * per_second
    assert [each["kept"] for each in kept] == ["sampled"] * 20
    assert bench.log.sampled_per_s == pytest.approx(1.0, abs=0.15)
    assert kept[0]["at"] >= kept[-1]["at"]


def test_a_hit_of_the_gateway_is_sampled_too():
    bench = Bench()
    for _ in range(MIN_COUNT):
        bench.ask(explain=False)
        bench.answer()
    bench.inference.roll(1.0)
    bench.ask(explain=False)
    (kept,) = bench.log.recent()
    assert (kept["cache"], kept["kept"]) == ("gateway", "sampled")


def test_failures_are_kept_though_they_were_not_traced():
    bench = Bench()
    bench.ask(explain=False)
    bench.answer(Tell.FAILED, b"sick", took_s=0.1)
    bench.answer(Tell.FAILED, b"sick too", took_s=0.2)
    (kept,) = bench.log.recent()
    assert (kept["kept"], kept["status"], kept["why"]) == ("failed", 503, bench.bodies[0]["error"])
    assert [each["outcome"] for each in kept["attempts"]] == ["failed", "failed"]
    assert {each["worker"] for each in kept["attempts"]} == set(NAMES)
    assert (kept["parts_ms"]["waiting"], kept["parts_ms"]["compute"]) == (pytest.approx(300.0), None)
    check_sum(kept)


def test_very_slow_ones_are_kept_once_it_is_known_what_that_is():
    bench = Bench()
    bench.ask(explain=False)
    bench.answer(took_s=5.0)
    assert bench.log.recent() == []
    for number in range(ENOUGH):
        bench.ask(f"[{number}]", explain=False)
        bench.answer(took_s=0.01)
    bench.inference.roll(0.0)
    bench.inference.sample_at = 0
    bench.ask("[0.5]", explain=False)
    bench.answer(took_s=0.02)  # twice as long as usual
    assert bench.log.recent() == []
    bench.ask("[0.25]", explain=False)
    bench.answer(took_s=0.05, time_us=45_000)
    (kept,) = bench.log.recent()
    assert (kept["kept"], kept["status"], kept["cache"], kept["batch"]) == ("slow", 200, "miss", None)
    assert (kept["parts_ms"]["network"], kept["parts_ms"]["worker"]) == pytest.approx((5.0, 45.0))
    assert (kept["parts_ms"]["queue"], kept["attempts"][0]["took_ms"]) == (None, pytest.approx(50.0))
    check_sum(kept)


def test_no_more_are_kept_than_there_is_room_for():
    bench = Bench()
    for second in range(KEPT // PER_SECOND["explained"] + 3):
        for number in range(3 * PER_SECOND["explained"]):
            bench.ask(f"[{second}, {number}]")
            bench.answer()
        assert len(bench.log.recent()) == min(KEPT, (second + 1) * PER_SECOND["explained"])
        bench.log.roll()
    assert all(bench.explained())  # also those that were not kept
    seconds = {each["id"] for each in bench.log.recent()}
    assert len(seconds) == KEPT


def test_many_failures_leave_room_for_others():
    bench = Bench(())
    for _ in range(500):
        bench.ask(explain=False)
    assert len(bench.log.recent()) == PER_SECOND["failed"]
    bench.ask()
    assert bench.log.recent()[0]["kept"] == "explained"
