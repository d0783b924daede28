"""Load for tests: cases sent over keep-alive connections, every answer compared with onnxruntime's own."""

import asyncio
import itertools
import json
import math
import select
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol, Self
from urllib.parse import urlsplit

from tests.support.oracle import Case as Case
from tests.support.oracle import Oracle as Oracle
from tests.support.processes import wait_until
from tests.support.waiting import PATIENCE_S

ANSWER_WITHIN_S = PATIENCE_S
ANSWER_LIMIT_BYTES = 2**22


class Sendable(Protocol):
    """What can be sent over and over: a Case, or another that knows its request and a right answer."""

    @property
    def status(self) -> int: ...

    def request(self, ident: str, host: str) -> bytes:
        """The whole request."""

    def fault_of(self, ident: str, status: int, head: bytes, answer: dict[str, Any], allow_503: bool = False) -> str:
        """What is wrong with an answer to it, whose head is given in lower case; "" if nothing."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One that was right, or a 503 that was allowed. `case` is the position among the cases; times are monotonic.

    `began` is when it was to be sent and `latency_s` counts from then; `late_s` is by how much the client itself missed
    that moment. `attempts` is how many workers were asked, as the answer says.
    """

    case: int
    status: int
    node: str
    cached: bool
    began: float
    latency_s: float
    late_s: float = 0.0
    attempts: int = 0


@dataclass(frozen=True, slots=True)
class Failure:
    """`cause` is refused (no connection), reset (no byte of an answer), truncated, timeout, status or wrong."""

    cause: str
    detail: str
    case: int
    began: float
    new_connection: bool


@dataclass
class Report:
    answers: list[Answer] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    @property
    def statuses(self) -> Counter[int]:
        return Counter(each.status for each in self.answers)

    def nodes(self, since: float = 0.0) -> Counter[str]:
        """How many requests, begun after this moment, each worker answered."""
        return Counter(each.node for each in self.between(since) if each.node)

    def between(self, since: float = 0.0, until: float = math.inf) -> Iterator[Answer]:
        """Those that began between these two moments."""
        return (each for each in tuple(self.answers) if since <= each.began <= until)

    def quantile_ms(self, part: float, since: float = 0.0, until: float = math.inf, status: int = 200) -> float:
        """The latency that this part (0 to 1) of such answers stayed within; NaN if there are none."""
        found = sorted(each.latency_s for each in self.between(since, until) if each.status == status)
        return found[min(len(found) - 1, int(part * len(found)))] * 1000 if found else math.nan

    def lateness_ms(self, part: float, since: float = 0.0, until: float = math.inf) -> float:
        """By how much the client itself missed its moments, in this part (0 to 1) of the cases at most."""
        found = sorted(each.late_s for each in self.between(since, until))
        return found[min(len(found) - 1, int(part * len(found)))] * 1000 if found else math.nan

    def owners(self, since: float = 0.0, until: float = math.inf) -> dict[int, set[str]]:
        """For each case, the workers that answered it when it was sent between these two moments."""
        found: dict[int, set[str]] = {}
        for each in self.between(since, until):
            if each.node:
                found.setdefault(each.case, set()).add(each.node)
        return found

    def assert_no_failure(self, *, but: Collection[str] = ()) -> None:
        found = [each for each in self.failures if each.cause not in but]
        causes = Counter(each.cause for each in found)
        assert not found, f"{causes} beside {len(self.answers)} right answers; the first: {found[:5]}"


def said_in(head: bytes, name: bytes) -> str:
    """What the header says in a head in lower case; "" without it."""
    return head.partition(b"\r\n" + name + b": ")[2].partition(b"\r\n")[0].decode()


def answerer(head: bytes, answer: dict[str, Any]) -> tuple[str, bool]:
    """Which worker has answered, and whether from a cache; as the body says it, or else the head."""
    cached = answer.get("cached", said_in(head, b"x-cache") in ("hit", "gateway"))
    return answer.get("node_id") or said_in(head, b"x-node"), cached


def judged(case: Sendable, ident: str, head: bytes, content: bytes, allow_503: bool) -> tuple[int, dict[str, Any], str]:
    """Status and body of an answer, and what is wrong with it; "": nothing."""
    status = int(head.split(b" ", 2)[1])
    answer: dict[str, Any] = {}
    try:
        answer = json.loads(content)
        return status, answer, case.fault_of(ident, status, head, answer, allow_503)
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        return status, answer, f"{error!r} in {content[:300]!r}"


def is_over(connection: asyncio.StreamWriter | asyncio.BaseTransport) -> bool:
    """Whether the other side has ended a connection on which no answer is due, be it read by the loop yet or not."""
    poll, descriptor = select.poll(), connection.get_extra_info("socket").fileno()
    if descriptor < 0:
        return True
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


def attempts_of(head: bytes) -> int:
    """What X-Attempts says in a head in lower case; 0 without it."""
    return int(said_in(head, b"x-attempts") or 0)


class Sender:
    """Sends the cases in turn, over and over, from a thread of its own, while its context lasts.

    A 503 counts as an answer only with `allow_503`, and only in the documented shape.
    """

    def __init__(self, url: str, cases: Sequence[Sendable], *, allow_503: bool = False) -> None:
        parts = urlsplit(url)
        self.host, self.port = parts.hostname or "", parts.port or 80
        self.cases = cases
        self.allow_503 = allow_503
        self.report = Report()
        self._ending = threading.Event()
        self._crash: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Sends nothing more; returns when what was sent has been answered."""
        self._ending.set()
        self._join(ANSWER_WITHIN_S + 10)

    def wait_for(self, count: int, timeout_s: float = PATIENCE_S) -> None:
        """Returns when so many more have been answered."""
        answers = self.report.answers
        target = len(answers) + count
        wait_until(
            f"{count} more answers (failures so far: {self.report.failures[:3]})",
            lambda: len(answers) >= target,
            timeout_s,
        )

    def wait_for_node(self, name: str, timeout_s: float = PATIENCE_S) -> None:
        """Returns when a request that was sent from now on has been answered by this worker."""
        since = time.monotonic()
        wait_until(f"{name} answers a request", lambda: self.report.nodes(since)[name], timeout_s)

    def wait_for_each_case(self, since: float, timeout_s: float = PATIENCE_S) -> None:
        """Returns when every case has been sent and answered with 200 after this moment."""
        wait_until("an answer for every case", lambda: len(self.report.owners(since)) == len(self.cases), timeout_s)

    def case(self, number: int) -> tuple[int, Sendable]:
        position = number % len(self.cases)
        return position, self.cases[position]

    def _join(self, timeout_s: float) -> None:
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            raise AssertionError(f"the load has not ended after {timeout_s:g} s: {self.report.failures[:3]}")
        if self._crash is not None:
            raise self._crash

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except BaseException as error:
            self._crash = error

    async def _main(self) -> None:
        raise NotImplementedError


class Load(Sender):
    """A closed loop: each of the connections waits for its answer before it sends again.

    `rate` (per second) slows them all down; it ends by itself when `total` have been answered.
    """

    def __init__(
        self,
        url: str,
        cases: Sequence[Sendable],
        *,
        connections: int = 20,
        rate: float | None = None,
        total: int | None = None,
        allow_503: bool = False,
    ) -> None:
        super().__init__(url, cases, allow_503=allow_503)
        self._connections = connections
        self._rate = rate
        self._total = total
        self._numbers = itertools.count()

    def finish(self, timeout_s: float = 2 * PATIENCE_S) -> Report:
        """Returns when all of `total` have been answered."""
        self._join(timeout_s)
        return self.report

    async def _main(self) -> None:
        await asyncio.gather(*(_Client(self, self.host, self.port).run() for _ in range(self._connections)))

    async def next_number(self) -> int | None:
        """Of the next request, when it is time for it; None: no more."""
        number = next(self._numbers)
        if self._rate is not None:
            await asyncio.sleep(max(0.0, self._began + number / self._rate - time.monotonic()))
        return None if self._ending.is_set() or (self._total is not None and number >= self._total) else number


class _Client:
    """One connection after the other, one request at a time."""

    def __init__(self, load: Load, host: str, port: int) -> None:
        self._load = load
        self._host = host
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._new_connection = True

    async def run(self) -> None:
        while (number := await self._load.next_number()) is not None:
            position, case = self._load.case(number)
            began = time.monotonic()
            try:
                async with asyncio.timeout(ANSWER_WITHIN_S):
                    failure = await self._exchange(position, case, f"r{number}", began)
            except TimeoutError:
                failure = ("timeout", f"no answer within {ANSWER_WITHIN_S:g} s")
            if failure is not None:
                self._close()
                self._load.report.failures.append(Failure(*failure, position, began, self._new_connection))
                await asyncio.sleep(0.02)
        self._close()

    async def _exchange(self, position: int, case: Sendable, ident: str, began: float) -> tuple[str, str] | None:
        """Sends one case and takes its answer; cause and detail if it failed."""
        if self._streams is not None and is_over(self._streams[1]):
            self._close()  # nothing was under way, so nothing is lost
        if self._streams is None:
            self._new_connection = True
            try:
                self._streams = await asyncio.open_connection(self._host, self._port, limit=ANSWER_LIMIT_BYTES)
            except OSError as error:
                return "refused", repr(error)
        reader, writer = self._streams
        head = b""
        try:
            writer.write(case.request(ident, f"{self._host}:{self._port}"))
            await writer.drain()
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.partition(b"\r\ncontent-length: ")[2].partition(b"\r\n")[0])
            content = await reader.readexactly(length)
        except asyncio.IncompleteReadError as error:
            return ("truncated" if head or error.partial else "reset"), repr(error)
        except OSError as error:
            return ("truncated" if head else "reset"), repr(error)
        latency_s = time.monotonic() - began
        status, answer, fault = judged(case, ident, head, content, self._load.allow_503)
        if fault:
            return ("status" if status != case.status else "wrong"), fault
        node, cached = answerer(head, answer)
        attempts = attempts_of(head)
        self._load.report.answers.append(Answer(position, status, node, cached, began, latency_s, attempts=attempts))
        self._new_connection = False
        if b"\r\nconnection: close" in head:
            self._close()
        return None

    def _close(self) -> None:
        if self._streams is not None:
            with suppress(OSError):
                self._streams[1].close()
            self._streams = None
