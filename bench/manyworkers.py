"""What many workers cost whoever looks at them: sizes of the page and of the reports, and the time that they take the
processor, in one process without a network, over 100,000 events. `python bench/manyworkers.py`; half a minute.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

EVENTS = 100_000
TIMES = 30
PAGES = ("/", "/stats", "/metrics", "/history", "/ring", "/traces", "/admin/gateway_app/event/")

Row = dict[str, str | float]


def median_ms(work: Callable[[], object]) -> float:
    """Of the processor's time, of some tens of times, without the first."""
    work()
    took = []
    for _ in range(TIMES):
        began = time.process_time()
        work()
        took.append(time.process_time() - began)
    return round(1000 * statistics.median(took), 2)


def prepare(directory: str) -> None:
    """A database with events, and somebody who may look at them."""
    os.environ.update(
        DJANGO_SETTINGS_MODULE="inference_site.settings", STATE_DIR=directory, ALLOWED_HOSTS="testserver",
        DATABASE_URL=f"sqlite:///{directory}/db.sqlite3", SECRET_KEY="of-this-run-alone",
    )  # fmt: skip
    import django

    django.setup()
    from django.contrib.auth.models import User
    from django.core.management import call_command
    from django.utils import timezone

    from gateway_app.models import Event

    call_command("migrate", verbosity=0)
    User.objects.create_superuser("admin", password="of-this-run-alone")
    now = timezone.now()
    Event.objects.bulk_create(
        (
            Event(at=now, worker=f"worker_{number % 100}", before="CLOSED", after="OPEN", reason="5 failures in a row")
            for number in range(EVENTS)
        ),
        batch_size=5000,
    )


def measure(workers: int, loop: asyncio.AbstractEventLoop) -> list[Row]:
    """With so many workers, each of which has answered something in each of the last 120 seconds."""
    import orjson
    from django.contrib.auth.models import User
    from django.test import Client

    from gateway_app.figures.history import KEPT_S
    from gateway_app.figures.seconds import Second
    from gateway_app.figures.stats import stats_of
    from inference_site import lifecycle
    from tests.support.manyworkers import gateway_of, report

    async def make() -> Any:
        gateway, links = gateway_of(workers)
        for second in range(KEPT_S):
            for name, link in links.items():
                link.report(report(name, 100 * second, 50.0 * second, 30.0 * second))
                for route in link.routes:
                    route.requests, route.computed = route.requests + 50, route.computed + 40
                    route.sent_s, route.worker_s = route.sent_s + 0.1, route.worker_s + 0.08
            gateway.history.tick(gateway)
        for number in range(50):
            gateway.events.add(
                "breaker", "5 failures in a row", worker=f"worker_{number}", before="CLOSED", after="OPEN"
            )
        return gateway

    gateway = asyncio.run_coroutine_threadsafe(make(), loop).result()
    lifecycle.use(SimpleNamespace(gateway=gateway, loop=loop, stopping=False))  # type: ignore[arg-type]
    seconds: list[Second] = list(gateway.history.seconds)
    rows: list[Row] = [
        {"what": "figures for all open pages", "kB": len(orjson.dumps(stats_of(gateway))) / 1000,
         "ms": median_ms(lambda: orjson.dumps(stats_of(gateway)))},
        {"what": "a second of history", "kB": len(seconds[-1].encoded) / 1000,
         "ms": median_ms(lambda: gateway.history.tick(gateway))},
    ]  # fmt: skip
    client = Client()
    client.force_login(User.objects.get())
    for path in PAGES:
        size = len(client.get(path).content)
        rows.append({"what": f"GET {path}", "kB": size / 1000, "ms": median_ms(lambda path=path: client.get(path))})  # type: ignore[misc]
    return [{"workers": workers, **row, "kB": round(float(row["kB"]), 1)} for row in rows]


def main() -> None:
    """Prints a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=[3, 100])
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="inference-bench-") as directory:
        prepare(directory)
        loop = asyncio.new_event_loop()
        threading.Thread(target=loop.run_forever, daemon=True).start()
        rows = [row for workers in options.workers for row in measure(workers, loop)]
    if options.json:
        print(json.dumps(rows))
        return
    print("| workers | what | kB | ms |\n|---:|---|---:|---:|")
    for row in rows:
        print(f"| {row['workers']} | {row['what']} | {row['kB']:,} | {row['ms']} |")


if __name__ == "__main__":
    main()
