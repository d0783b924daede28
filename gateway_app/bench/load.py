"""The load itself: threads with one `requests` session each, that ask, check the answer and note the time."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import requests
from urllib3.exceptions import HTTPError

from gateway_app.bench.workload import request_body
from gateway_app.probe import cause_of, open_session

REQUEST_TIMEOUT_S = 30.0
PROGRESS_EVERY_S = 0.1
WRONG_ANSWER = "wrong answer"


@dataclass(slots=True)
class Tally:
    """What one thread, or all of them together, saw. Latencies are of successes, in seconds."""

    latencies_s: list[float] = field(default_factory=list)
    nodes: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    first_messages: dict[str, str] = field(default_factory=dict)
    cached: int = 0

    @property
    def successes(self) -> int:
        return len(self.latencies_s)

    @property
    def failed(self) -> int:
        return sum(self.failures.values())

    def fail(self, cause: str, message: str) -> None:
        self.failures[cause] += 1
        self.first_messages.setdefault(cause, message)

    def add(self, other: Tally) -> None:
        self.latencies_s += other.latencies_s
        self.nodes += other.nodes
        self.failures += other.failures
        self.cached += other.cached
        self.first_messages = {**other.first_messages, **self.first_messages}


@dataclass(frozen=True, slots=True)
class LoadResult:
    tally: Tally
    wall_s: float
    cpu_s: float  # of this process: near wall_s, the client is the bottleneck
    interrupted: bool


def wrong_answer(reply: Any, request_id: str) -> str:
    """Why a 200 is not the answer to this request; empty if it is."""
    if not isinstance(reply, dict):
        return f"asked {request_id}, got no JSON object"
    if reply.get("request_id") != request_id:
        return f"asked {request_id}, got an answer to {reply.get('request_id')!r}"
    output = reply.get("output_data")
    if not isinstance(output, list) or not output:
        return f"asked {request_id}, got output_data {str(output)[:60]}"
    return ""


class Sender:
    """One thread's connection to one /infer, and the tally of what came back."""

    def __init__(self, url: str) -> None:
        self.tally = Tally()
        self.finished = threading.Event()
        self._session = open_session()
        # Session.post builds and merges a request anew each time: nearly half of a thread's time, and all threads
        # share one interpreter. One prepared request, whose body is swapped, goes straight to the session's adapter.
        self._adapter = self._session.get_adapter(url)
        self._prepared = self._session.prepare_request(
            requests.Request("POST", url, data=b"{}", headers={"Content-Type": "application/json"})
        )

    def ask(self, request_id: str, encoded_input: bytes) -> dict[str, Any] | None:
        """The reply, counted as a success; None, counted as a failure."""
        body = request_body(request_id, encoded_input)
        self._prepared.body = body
        self._prepared.headers["Content-Length"] = str(len(body))
        started = time.perf_counter()
        try:
            response = self._adapter.send(self._prepared, timeout=REQUEST_TIMEOUT_S)
            content = response.content
        except (OSError, HTTPError) as error:
            self.tally.fail(cause_of(error), str(error))
            return None
        elapsed_s = time.perf_counter() - started
        if response.status_code != 200:
            self.tally.fail(f"HTTP {response.status_code}", _message(content))
            return None
        try:
            reply = json.loads(content)
        except ValueError:
            reply = None
        if problem := wrong_answer(reply, request_id):
            self.tally.fail(WRONG_ANSWER, problem)
            return None
        self.tally.latencies_s.append(elapsed_s)
        self.tally.nodes[str(reply.get("node_id"))] += 1
        self.tally.cached += reply.get("cached") is True
        answer: dict[str, Any] = reply
        return answer

    def close(self) -> None:
        self._session.close()


def _message(content: bytes) -> str:
    try:
        return str(json.loads(content)["error"])
    except (ValueError, KeyError, TypeError):
        return content[:200].decode("utf-8", "replace")


def run_load(
    gateway: str, inputs: Sequence[bytes], order: Sequence[int], threads: int, on_progress: Callable[[int], None]
) -> LoadResult:
    """Sends `inputs[i] for i in order` from `threads` threads; Ctrl-C ends it early and keeps what was measured."""
    senders = [Sender(f"{gateway}/infer") for _ in range(threads)]
    turn = itertools.count()  # next() on it is atomic: threads take requests as they are free
    stop = threading.Event()
    start = threading.Event()

    def work(sender: Sender) -> None:
        try:
            start.wait()
            while (index := next(turn)) < len(order) and not stop.is_set():
                sender.ask(f"bench-{index}", inputs[order[index]])
        finally:
            sender.finished.set()
            sender.close()

    for sender in senders:
        threading.Thread(target=work, args=(sender,), daemon=True).start()
    began, cpu_began = time.perf_counter(), time.process_time()
    interrupted = False
    try:
        start.set()  # in here: from the first request on, Ctrl-C is to end with a report
        _watch(senders, on_progress)
    except KeyboardInterrupt:
        interrupted = True
        stop.set()
        start.set()
        _watch(senders, on_progress)  # each thread still awaits its last answer; a second Ctrl-C gives up on them
    wall_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu_began
    total = Tally()
    for sender in senders:
        total.add(sender.tally)
    return LoadResult(total, wall_s, cpu_s, interrupted)


def _watch(senders: list[Sender], on_progress: Callable[[int], None]) -> None:
    # Not Thread.join: when Ctrl-C interrupts it, CPython 3.11 takes a thread that still runs for ended, and the answer
    # that this thread awaits would be missing from the report.
    for sender in senders:
        while not sender.finished.wait(PROGRESS_EVERY_S):
            on_progress(sum(each.tally.successes + each.tally.failed for each in senders))
