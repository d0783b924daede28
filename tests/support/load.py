"""Load for tests: cases sent over keep-alive connections, every answer compared with onnxruntime's own."""

import asyncio
import itertools
import json
import math
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from tests.support.processes import wait_until

TOLERANCE = 1e-5
ANSWER_WITHIN_S = 20.0  # twice what the gateway allows
ANSWER_LIMIT_BYTES = 2**22


@dataclass(frozen=True, slots=True)
class Case:
    """An input_data as JSON text, and what must come back: these numbers, or this refusal."""

    text: bytes
    expected: NDArray[np.float32] | None = None
    status: int = 200
    code: str = ""


class Oracle:
    """What onnxruntime itself answers, with no server in between: the first float output of a model of one input."""

    def __init__(self, model: Path) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0]
        self._output = next(each.name for each in self._session.get_outputs() if each.type == "tensor(float)")
        self.size = math.prod(self._input.shape[1:])

    def answers(self, rows: Sequence[Sequence[float]]) -> list[NDArray[np.float32]]:
        """One for each row; a short row is padded with zeros."""
        batch = np.zeros((len(rows), self.size), np.float32)
        for number, row in enumerate(rows):
            batch[number, : len(row)] = row
        at_once = 1 if self._input.shape[0] == 1 else len(rows)
        parts = [batch[start : start + at_once] for start in range(0, len(rows), at_once)]
        found = [
            self._session.run([self._output], {self._input.name: part.reshape(-1, *self._input.shape[1:])})[0]
            for part in parts
        ]
        return list(np.concatenate(found).reshape(len(rows), -1))

    def cases(self, rows: Iterable[Sequence[float]]) -> list[Case]:
        values = [[float(value) for value in row] for row in rows]
        return [
            Case(json.dumps(row).encode(), answer) for row, answer in zip(values, self.answers(values), strict=True)
        ]

    def random_cases(
        self, count: int, seed: int, *, size: int | None = None, low: float = -1.0, high: float = 1.0
    ) -> list[Case]:
        """Cases of `size` values (default: as many as the model takes), none like another."""
        rng = np.random.default_rng(seed)
        return self.cases(rng.uniform(low, high, (count, size or self.size)).round(4).tolist())


@dataclass(frozen=True, slots=True)
class Answer:
    """One that was right, or a 503 that was allowed. `case` is the position among the cases; times are monotonic."""

    case: int
    status: int
    node: str
    cached: bool
    began: float
    latency_s: float


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
        return Counter(each.node for each in self.answers if each.began >= since and each.node)

    def owners(self, since: float = 0.0, until: float = math.inf) -> dict[int, set[str]]:
        """For each case, the workers that answered it when it was sent between these two moments."""
        found: dict[int, set[str]] = {}
        for each in self.answers:
            if each.node and since <= each.began <= until:
                found.setdefault(each.case, set()).add(each.node)
        return found

    def assert_no_failure(self, *, but: Collection[str] = ()) -> None:
        found = [each for each in self.failures if each.cause not in but]
        causes = Counter(each.cause for each in found)
        assert not found, f"{causes} beside {len(self.answers)} right answers; the first: {found[:5]}"


class Load:
    """Sends the cases in turn, over and over, while its context lasts or until `total` of them are answered.

    Each of the connections waits for its answer before it sends again; `rate` (per second) slows them all down.
    A 503 counts as an answer only with `allow_503`, and only in the documented shape.
    """

    def __init__(
        self,
        url: str,
        cases: Sequence[Case],
        *,
        connections: int = 20,
        rate: float | None = None,
        total: int | None = None,
        allow_503: bool = False,
    ) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 80
        self._cases = cases
        self._connections = connections
        self._rate = rate
        self._total = total
        self._allow_503 = allow_503
        self._numbers = itertools.count()
        self._stop = threading.Event()
        self._crash: BaseException | None = None
        self.report = Report()
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Sends nothing more; returns when what was sent has been answered."""
        self._stop.set()
        self._join(ANSWER_WITHIN_S + 10)

    def finish(self, timeout_s: float = 100.0) -> Report:
        """Returns when all of `total` have been answered."""
        self._join(timeout_s)
        return self.report

    def wait_for(self, count: int, timeout_s: float = 30.0) -> None:
        """Returns when so many more have been answered."""
        answers = self.report.answers
        target = len(answers) + count
        wait_until(
            f"{count} more answers (failures so far: {self.report.failures[:3]})",
            lambda: len(answers) >= target,
            timeout_s,
        )

    def wait_for_node(self, name: str, timeout_s: float = 15.0) -> None:
        """Returns when a request that was sent from now on has been answered by this worker."""
        since = time.monotonic()
        wait_until(f"{name} answers a request", lambda: self.report.nodes(since)[name], timeout_s)

    def wait_for_each_case(self, since: float, timeout_s: float = 30.0) -> None:
        """Returns when every case has been sent and answered with 200 after this moment."""
        wait_until("an answer for every case", lambda: len(self.report.owners(since)) == len(self._cases), timeout_s)

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
        await asyncio.gather(*(_Client(self, self._host, self._port).run() for _ in range(self._connections)))

    async def next_number(self) -> int | None:
        """Of the next request, when it is time for it; None: no more."""
        number = next(self._numbers)
        if self._rate is not None:
            await asyncio.sleep(max(0.0, self._began + number / self._rate - time.monotonic()))
        return None if self._stop.is_set() or (self._total is not None and number >= self._total) else number

    def case(self, number: int) -> tuple[int, Case]:
        position = number % len(self._cases)
        return position, self._cases[position]

    def fault_of(self, case: Case, ident: str, status: int, head: bytes, answer: dict[str, Any]) -> str:
        """What is wrong with an answer; "" if nothing."""
        if answer.get("request_id") != ident:
            return f"it was for {answer.get('request_id')!r}, not {ident!r}"
        if status != 200:
            if not (isinstance(answer.get("error"), str) and isinstance(answer.get("code"), str)):
                return f"not the shape of an error: {answer}"
            if status == 503 and self._allow_503:
                return "" if b"\r\nretry-after: " in head else "a 503 without Retry-After"
        if (status, answer.get("code", "")) != (case.status, case.code):
            return f"{status} {answer} instead of {case.status} {case.code}"
        if case.expected is None:
            return ""
        got = np.array(answer["output_data"], np.float64)
        if got.shape != case.expected.shape:
            return f"{got.shape} instead of {case.expected.shape}"
        wrong = np.abs(got - case.expected) > TOLERANCE * np.maximum(1.0, np.abs(case.expected))
        return f"{got[:8]} instead of {case.expected[:8]}" if wrong.any() else ""


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

    async def _exchange(self, position: int, case: Case, ident: str, began: float) -> tuple[str, str] | None:
        """Sends one case and takes its answer; cause and detail if it failed."""
        if self._streams is None:
            self._new_connection = True
            try:
                self._streams = await asyncio.open_connection(self._host, self._port, limit=ANSWER_LIMIT_BYTES)
            except OSError as error:
                return "refused", repr(error)
        reader, writer = self._streams
        body = b'{"request_id":"%b","input_data":%b}' % (ident.encode(), case.text)
        head = b""
        try:
            writer.write(
                b"POST /infer HTTP/1.1\r\nHost: %b:%d\r\nContent-Length: %d\r\n\r\n%b"
                % (self._host.encode(), self._port, len(body), body)
            )
            await writer.drain()
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.partition(b"\r\ncontent-length: ")[2].partition(b"\r\n")[0])
            content = await reader.readexactly(length)
        except asyncio.IncompleteReadError as error:
            return ("truncated" if head or error.partial else "reset"), repr(error)
        except OSError as error:
            return ("truncated" if head else "reset"), repr(error)
        latency_s = time.monotonic() - began
        status = int(head.split(b" ", 2)[1])
        try:
            answer = json.loads(content)
            fault = self._load.fault_of(case, ident, status, head, answer)
        except (ValueError, KeyError, AttributeError) as error:
            fault = f"{error!r} in {content[:300]!r}"
        if fault:
            return ("status" if status != case.status else "wrong"), fault
        node, cached = answer.get("node_id", ""), answer.get("cached", False)
        self._load.report.answers.append(Answer(position, status, node, cached, began, latency_s))
        self._new_connection = False
        if b"\r\nconnection: close" in head:
            self._close()
        return None

    def _close(self) -> None:
        if self._streams is not None:
            with suppress(OSError):
                self._streams[1].close()
            self._streams = None
