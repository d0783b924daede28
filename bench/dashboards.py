"""Measures what it costs to be watched, and how soon a page shows what has happened: open dashboards beside none, a
worker that is killed, the weight of the page. Part of `make bench`; alone: `python bench/dashboards.py`.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import statistics
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from bench.yardstick import BenchError, cpu_seconds, nginx, workplace, write_load, wrk
from tests.support.cluster import Cluster
from tests.support.onnx_models import mlp

Row = tuple[str, str]
DASHBOARDS = 10
SEEN_WITHIN_S = 90.0


# --- Open dashboards beside none ---------------------------------------------------------------------------------


def cost(cluster: Cluster, directory: Path, pairs: int, seconds: int) -> list[Row]:
    """The hot rate without and with open dashboards, in turn, and nginx's beside them."""
    url, pid = f"{cluster.gateway_url}/infer", cluster.pids()["gateway"]
    script = write_load(directory / "hot", 10, 64)
    alone: list[float] = []
    watched: list[float] = []
    cpu_us: dict[bool, list[float]] = {False: [], True: []}
    with nginx(directory) as yardstick:
        wrk(url, script, seconds=min(2, seconds))
        for number in range(2 * pairs):
            theirs = wrk(yardstick, script, seconds=seconds)
            for is_watched in (False, True) if number % 2 else (True, False):  # each comes first as often
                with Dashboards(cluster, DASHBOARDS if is_watched else 0) as dashboards:
                    before = cpu_seconds(pid)
                    ours = wrk(url, script, seconds=seconds)
                    cpu_us[is_watched].append((cpu_seconds(pid) - before) / max(ours.requests, 1) * 1e6)
                    dashboards.await_messages(max(1, seconds // 2))
                if ours.errors or theirs.errors:
                    raise BenchError(f"requests failed: {ours}, {theirs}")
                (watched if is_watched else alone).append(ours.per_s / theirs.per_s)
    changes = [100 * (with_ / without - 1) for with_, without in zip(watched, alone, strict=True)]
    ratio, ratio_alone, change = map(statistics.median, (watched, alone, changes))
    us, us_alone = statistics.median(cpu_us[True]), statistics.median(cpu_us[False])
    text = (
        f"**{change:+.1f} %** of the hot rate: {ratio:.2f} of nginx's, without {ratio_alone:.2f} "
        f"(each pair: {', '.join(f'{each:+.1f}' for each in sorted(changes))} %; gateway {us:.1f} µs CPU a request, "
        f"without {us_alone:.1f})"
    )
    return [(f"{DASHBOARDS} open dashboards", text), idle(cluster, pid, 2 * seconds)]


def idle(cluster: Cluster, pid: int, seconds: int) -> Row:
    """What the gateway computes for them, as long as there is nothing else to do."""
    took_ms: dict[int, float] = {}
    for count in (0, 1, DASHBOARDS):
        with Dashboards(cluster, count):
            before = cpu_seconds(pid)
            time.sleep(seconds)
            took_ms[count] = (cpu_seconds(pid) - before) / seconds * 1000
    text = ", ".join(f"{count}: {each:.0f} ms" for count, each in took_ms.items())
    return ("CPU a second of a gateway without requests, by open dashboards", text)


class Dashboards:
    """So many open sockets that read whatever comes, as pages do; they are open when this is entered."""

    def __init__(self, cluster: Cluster, count: int) -> None:
        self.messages = 0
        self._cluster = cluster
        self._count = count
        self._open = ExitStack()

    def __enter__(self) -> Dashboards:
        for _ in range(self._count):
            socket = self._open.enter_context(live(self._cluster))
            thread = threading.Thread(target=self._read, args=(socket,), daemon=True)
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def await_messages(self, each: int) -> None:
        """Until they have been told the figures so often, all in all. Raises BenchError."""
        until = time.monotonic() + SEEN_WITHIN_S
        while self.messages < each * self._count:
            if time.monotonic() > until:
                raise BenchError(f"{self._count} open dashboards were told the figures only {self.messages} times")
            time.sleep(0.05)

    def _read(self, socket: ClientConnection) -> None:
        with suppress(ConnectionClosed):
            for _ in socket:
                self.messages += 1


@contextmanager
def live(cluster: Cluster) -> Iterator[ClientConnection]:
    """A socket such as a page opens, which has had its first message."""
    url = f"{cluster.gateway_url.replace('http', 'ws', 1)}/live"
    with connect(url, compression=None, max_size=None) as socket:
        first = json.loads(socket.recv(SEEN_WITHIN_S))
        if first["type"] != "start":
            raise BenchError(f"/live began with {first['type']!r}")
        yield socket


# --- How soon a page shows it --------------------------------------------------------------------------------------


def visible(cluster: Cluster, kills: int) -> list[Row]:
    """From the moment that a worker is killed, while it has requests, to the first message that shows it."""
    took_s: list[float] = []
    with load(cluster), live(cluster) as socket:
        for number in range(kills):
            name = cluster.names[number % len(cluster.names)]
            await_message(socket, lambda worker: bool(worker["routable"]), name)
            killed_at = time.monotonic()
            cluster.kill(name)
            await_message(socket, lambda worker: not worker["routable"], name)
            took_s.append(time.monotonic() - killed_at)
    spread = f"median {statistics.median(took_s):.2f} s, at the most **{max(took_s):.2f} s**"
    return [("a worker is killed: until an open page has it", f"{spread} ({kills} times)")]


def await_message(socket: ClientConnection, shows: Callable[[dict[str, Any]], bool], name: str) -> None:
    """Reads on until a message shows that of a worker."""
    until = time.monotonic() + SEEN_WITHIN_S
    while time.monotonic() < until:
        stats = json.loads(socket.recv(SEEN_WITHIN_S))["stats"]
        if any(shows(worker) for worker in stats["workers"] if worker["name"] == name):
            return
    raise BenchError(f"in {SEEN_WITHIN_S:.0f} s no message showed what had become of {name}")


@contextmanager
def load(cluster: Cluster) -> Iterator[None]:
    """Some requests all the time, one after the other, each with an input of its own."""
    ended = threading.Event()

    def ask() -> None:
        number = 0
        while not ended.wait(0.005):
            number += 1
            cluster.infer([float(number), 0.5, 1.0])

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


# --- What a page weighs --------------------------------------------------------------------------------------------


def weight(cluster: Cluster) -> list[Row]:
    """The dashboard with all that it refers to, then what it is told."""
    page = f"{cluster.gateway_url}/"
    sent, whole = fetch(page)
    text = whole.decode()
    paths = sorted(set(re.findall(r'(?:src|href)="([^"#]+\.(?:js|css|svg|png|ico)[^"]*)"', text)))
    if not any(".js" in path for path in paths):
        raise BenchError("the dashboard refers to no script")
    parts = {path: fetch(urljoin(page, path)) for path in paths}
    total_sent = sent + sum(size for size, _ in parts.values())
    total_whole = len(whole) + sum(len(content) for _, content in parts.values())
    with connect(f"{cluster.gateway_url.replace('http', 'ws', 1)}/live", compression=None, max_size=None) as socket:
        first, second = len(socket.recv(SEEN_WITHIN_S)), len(socket.recv(SEEN_WITHIN_S))
    text = (
        f"{total_sent / 1000:.0f} kB sent in {1 + len(parts)} requests ({total_whole / 1000:.0f} kB unpacked), "
        f"{sent / 1000:.1f} kB in one if a browser has been there before; then {first / 1000:.1f} kB at first and "
        f"{second / 1000:.1f} kB each second"
    )
    return [("weight of the dashboard, three workers", text)]


def fetch(url: str) -> tuple[int, bytes]:
    """Bytes of the body as it was sent to a browser, and what they unpack to."""
    request = urllib.request.Request(url, headers={"Accept": "text/html,*/*", "Accept-Encoding": "gzip"})
    with urllib.request.urlopen(request, timeout=SEEN_WITHIN_S) as answer:
        body: bytes = answer.read()
        is_packed = answer.headers["Content-Encoding"] == "gzip"
    return len(body), gzip.decompress(body) if is_packed else body


def rows(directory: Path, pairs: int, seconds: int, kills: int) -> list[Row]:
    """All of it, on a cluster of its own."""
    model = mlp(directory / "watched64.onnx", sizes=(64, 128, 10))
    with Cluster(directory / "watched", model=model) as cluster:
        return [*weight(cluster), *cost(cluster, directory, pairs, seconds), *visible(cluster, kills)]


def main() -> None:
    """Runs it alone."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=4, help="runs of each kind in either order (default: %(default)s)")
    parser.add_argument("--seconds", type=int, default=4, help="length of a run (default: %(default)s)")
    parser.add_argument("--kills", type=int, default=20, help="of workers, in turn (default: %(default)s)")
    options = parser.parse_args()
    with workplace() as directory:
        for label, result in rows(directory, options.pairs, options.seconds, options.kills):
            print(f"| {label} | {result} |", flush=True)


if __name__ == "__main__":
    try:
        main()
    except BenchError as error:
        sys.exit(str(error))
