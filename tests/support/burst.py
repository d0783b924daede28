"""Many requests at one moment, each on a connection that was opened before; some clients do not wait for the answer."""

import asyncio
import json
import time
from collections.abc import Sequence
from urllib.parse import urlsplit

from tests.support.load import Answer, Case, Failure, Report, attempts_of
from tests.support.waiting import PATIENCE_S


def burst(url: str, cases: Sequence[Case], *, leave: int = 0, leave_after_s: float = 0.0) -> Report:
    """Sends all at once and compares the answers; the first `leave` of the clients reset their connections instead."""
    return asyncio.run(_burst(url, cases, leave, leave_after_s))


async def _burst(url: str, cases: Sequence[Case], leave: int, leave_after_s: float) -> Report:
    parts = urlsplit(url)
    report = Report()
    streams = [await asyncio.open_connection(parts.hostname, parts.port) for _ in cases]
    began = time.monotonic()
    for number, (case, (_, writer)) in enumerate(zip(cases, streams, strict=True)):
        writer.write(case.request(f"b{number}", parts.netloc))
    await asyncio.sleep(leave_after_s)
    for _, writer in streams[:leave]:
        writer.transport.abort()
    waiting = list(enumerate(zip(cases, streams, strict=True)))[leave:]
    await asyncio.gather(*(_answer(report, number, case, reader, began) for number, (case, (reader, _)) in waiting))
    for _, writer in streams:
        writer.close()
    return report


async def _answer(report: Report, number: int, case: Case, reader: asyncio.StreamReader, began: float) -> None:
    try:
        async with asyncio.timeout(PATIENCE_S):
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.partition(b"\r\ncontent-length: ")[2].partition(b"\r\n")[0])
            answer = json.loads(await reader.readexactly(length))
    except (TimeoutError, OSError, asyncio.IncompleteReadError, ValueError) as error:
        report.failures.append(Failure("reset", repr(error), number, began, True))
        return
    status = int(head.split(b" ", 2)[1])
    if fault := case.fault_of(f"b{number}", status, head, answer):
        report.failures.append(Failure("status" if status != case.status else "wrong", fault, number, began, True))
        return
    latency_s = time.monotonic() - began
    node, cached = answer.get("node_id", ""), answer.get("cached", False)
    report.answers.append(Answer(number, status, node, cached, began, latency_s, attempts=attempts_of(head)))
