"""What the end of a link leaves: a lost worker, one that leaves, and one that is not wanted any more."""

from __future__ import annotations

import asyncio
import json
import time

import numpy as np
import pytest
from xxhash import xxh3_64_intdigest

from gateway_app.core.breaker import State
from gateway_app.core.policy import Policy
from gateway_app.core.ring import Ring
from gateway_app.streams import links
from inference_site.lib import frames
from inference_site.lib.asks import key_of
from inference_site.lib.frames import Ask, Tell
from tests.gateway_app.scripted import INFERENCES, SEED, Bench, ScriptedWorker, WaitingCall, result
from tests.support.waiting import PATIENCE_S, until
from tests.worker_app.echo_engine import EchoEngine, echo, echo_node


def answer_to(values: list[float]) -> bytes:
    return echo(np.array(values, "f4").tobytes())


async def test_what_was_in_flight_on_a_worker_that_dies_is_answered_by_the_next(bench: Bench) -> None:
    silent = ScriptedWorker("a")
    silent.answers = False
    server = bench.serve(silent)
    link = await bench.connected("a", server.port)
    other = ScriptedWorker("b")
    await bench.connected("b", bench.serve(other).port)
    small = [bench.call([number, 0, 0, 0], first="a") for number in range(20)]
    large = bench.call(b"[" + b"1," * 50_000 + b"1]", first="a")
    await until(lambda: len(silent.asked) == 21)
    await server.die()
    for number, call in enumerate(small):
        assert await call.outcome() == ("result", json.dumps([number, 0, 0, 0]).encode())
    assert (await large.outcome())[0] == "result"
    assert link.in_flight == bench.router.in_flight == 0
    assert bench.router.retries == 21
    kinds = [ask[0] for connection in other.connections for ask in connection.asks if ask[0] in INFERENCES]
    assert kinds == [Ask.FIRST] * 21  # others wait for how each of them ends
    revived = ScriptedWorker("a")
    revived.instance = "second"
    bench.serve(revived, port=server.port)
    await until(lambda: link.routes[0].up)
    assert link.routes[0].breaker.state in (State.CLOSED, State.HALF_OPEN)


async def test_a_kill_under_load_loses_nothing_and_mixes_nothing_up(bench: Bench) -> None:
    nodes = {name: echo_node(EchoEngine(takes_s=0.002), name=name) for name in ("a", "b", "c")}
    servers = {name: bench.serve_node(node) for name, node in nodes.items()}
    for name, server in servers.items():
        await bench.connected(name, server.port)
    asked: list[tuple[list[float], WaitingCall]] = []
    for number in range(1500):
        values = [float(number % 700), 1.0, 2.0, float(number % 3)]
        call = WaitingCall(key_of(text := json.dumps(values).encode(), SEED), text)
        bench.router.submit(call)
        asked.append((values, call))
        if number == 700:
            await servers["b"].die()
        if number % 20 == 0:
            await asyncio.sleep(0.001)
    for values, call in asked:
        assert await call.outcome() == ("result", answer_to(values))
    assert bench.router.in_flight == 0
    assert all(len(call.outcomes) == 1 for _, call in asked)


async def test_the_deadlines_of_a_retiring_link_hold(bench: Bench) -> None:
    silent = ScriptedWorker("a")
    silent.answers = False
    link = await bench.connected("a", bench.serve(silent).port)
    bench.router.policy = Policy(bench.breaker, timeout_s=0.1)
    call = bench.call([1, 2, 3, 4])
    await until(lambda: silent.asked)  # whether its time is over by now or not: nobody looks at it
    bench.router.configure(Ring({}, 50, xxh3_64_intdigest), set(), bench.router.policy)
    route = link.routes[0]
    route.up, route.link = False, None
    retiring = asyncio.create_task(link.retire(60))
    assert (await call.outcome())[1].code == "deadline_passed"
    await until(retiring.done)


async def test_retire_waits_for_what_is_in_flight(bench: Bench) -> None:
    worker = ScriptedWorker()
    worker.answers = False
    link = await bench.connected("worker_1", bench.serve(worker).port)
    call = bench.call([1, 2, 3, 4])
    await until(lambda: worker.asked)
    retiring = asyncio.create_task(link.retire(PATIENCE_S))
    await asyncio.sleep(0.1)
    assert not retiring.done()
    await worker.connections[0].send(result(*worker.asked[0], b"[5]"))
    await until(retiring.done)
    assert call.outcomes == [("result", b"[5]")]
    await until(lambda: not worker.open)
    await asyncio.sleep(0.15)
    assert len(worker.connections) == 2  # it does not come back


async def test_retire_gives_back_what_is_not_answered_in_time(bench: Bench) -> None:
    silent = ScriptedWorker("a")
    silent.answers = False
    link = await bench.connected("a", bench.serve(silent).port)
    await bench.connected("b", bench.serve(ScriptedWorker("b")).port)
    call = bench.call([1, 2, 3, 4], first="a")
    await until(lambda: silent.asked)
    link.routes[0].up = False
    await link.retire(0.05)
    assert await call.outcome() == ("result", b"[1, 2, 3, 4]")
    assert link.routes[0].in_flight == link.in_flight == 0


async def test_a_worker_that_reads_nothing_any_more_holds_no_request_back_at_the_end(bench: Bench) -> None:
    stuck = ScriptedWorker("a")
    server = bench.serve(stuck)
    link = await bench.connected("a", server.port)
    for transport in server.transports:
        transport.pause_reading()
    calls = [bench.call(b"[" + b"1," * 2_000_000 + b"1]") for _ in range(8)]
    calls.append(bench.call([1, 2, 3, 4]))
    await asyncio.sleep(0.05)
    link.routes[0].up = False
    await link.retire(0.05)
    for call in calls:
        assert (await call.outcome())[0] == "error"
    assert link.routes[0].in_flight == link.in_flight == 0


async def test_retire_while_connecting_leaves_no_connection(bench: Bench) -> None:
    worker = ScriptedWorker()
    worker.greets = lambda connection: not connection.bulk
    link = bench.link("worker_1", bench.serve(worker).port)
    await until(lambda: len(worker.connections) == 2)
    await link.retire(0)
    await until(lambda: not worker.open)


async def test_a_leaving_worker_is_let_go_once_idle_and_somebody_else_is_there(bench: Bench) -> None:
    leaver = ScriptedWorker("a")
    leaver.answers = False
    link = await bench.connected("a", bench.serve(leaver).port)
    connected_since = link.since
    other = ScriptedWorker("b")
    await bench.connected("b", bench.serve(other).port)
    call = bench.call([1, 2, 3, 4], first="a")
    await until(lambda: leaver.asked)
    await leaver.connections[0].send(frames.tell(Tell.DRAINING, 0, b""))
    await until(lambda: link.routes[0].leaving)
    assert (await bench.call([5, 6, 7, 8], first="a").outcome())[0] == "result"
    assert len(other.asked) == 1
    assert len(leaver.open) == 2
    await leaver.connections[0].send(result(*leaver.asked[0], b"[5]"))
    assert await call.outcome() == ("result", b"[5]")
    await until(lambda: not leaver.connections[0].open and not leaver.connections[1].open)
    assert link.routes[0].breaker.failures == 0  # to stop on request is no failure
    assert (link.ready, link.leaving) == (False, True)  # until its next process is there
    assert link.since > connected_since


@pytest.mark.parametrize("ends", [True, False])
async def test_a_leaving_worker_hands_over_its_results_first(
    bench: Bench, ends: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "SHARE_WITHIN_S", PATIENCE_S)
    leaver, other = ScriptedWorker("a"), ScriptedWorker("b")
    link = await bench.connected("a", bench.serve(leaver).port)
    await bench.connected("b", bench.serve(other).port)
    monkeypatch.setattr(bench, "leaves", lambda link: setattr(link, "sharing", 1))
    await leaver.connections[0].send(frames.tell(Tell.DRAINING, 0, b""))
    await until(lambda: link.routes[0].leaving)
    await asyncio.sleep(0.1)
    assert len(leaver.open) == 2
    if ends:
        link.sharing = 0
    else:
        monkeypatch.setattr(link, "_clock", lambda: time.monotonic() + PATIENCE_S)
    await until(lambda: not leaver.open)


async def test_the_only_worker_that_leaves_is_kept_and_its_successor_is_not_cut_off(bench: Bench) -> None:
    leaver = ScriptedWorker()
    server = bench.serve(leaver)
    link = await bench.connected("worker_1", server.port)
    await leaver.connections[0].send(frames.tell(Tell.DRAINING, 0, b""))
    await until(lambda: link.routes[0].leaving)
    assert (await bench.call([1, 2, 3, 4]).outcome())[0] == "result"  # nobody else is there
    assert len(leaver.open) == 2
    await server.die()
    failures = link.routes[0].breaker.failures
    for _ in range(2):
        await until(lambda: "can't connect" in link.last_error)
        link.last_error = ""
    assert (link.ready, link.leaving) == (False, True)
    assert link.routes[0].breaker.failures == failures  # it is not there, and has not failed
    successor = ScriptedWorker()
    successor.instance = "second"
    bench.serve(successor, port=server.port)
    await until(lambda: link.routes[0].up)
    assert (link.up, link.leaving) == (True, False)
    await asyncio.sleep(0.3)
    assert link.routes[0].up
    assert len(successor.connections) == len(successor.open) == 2
    assert (await bench.call([1, 2, 3, 4]).outcome())[0] == "result"
