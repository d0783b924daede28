"""What the gateway's page shows beside /stats: two minutes of points, the ring, where an input goes, traces."""

import json
import math
import time
from functools import cache
from typing import Any

from xxhash import xxh3_64_intdigest

from gateway_app.core.table import Table
from inference_site.lib.asks import key_of, seed_of
from inference_site.lib.errors import ApiError
from inference_site.lib.payload import decode_request

Json = dict[str, Any]

NAMES = ("worker_1", "worker_2", "worker_3")
STEP = 64  # slots of the table for each that /ring names


def point(age_s: int, names: tuple[str, ...] = NAMES) -> Json:
    """One second of steady traffic that ended so long ago."""
    swing = math.sin(age_s / 9)
    workers = {
        name: {"rate": round(2800 + 200 * swing, 1), "p99": round(11.2 + swing, 2), "in_flight": 5 + number}
        for number, name in enumerate(names)
    }
    return {
        "t": 1_700_000_000 - age_s,
        "rate": round(8423.4 + 600 * swing, 1),
        "p50": round(1.84 + 0.1 * swing, 3),
        "p95": round(4.9 + 0.4 * swing, 3),
        "p99": round(12.61 + 2 * swing, 3),
        "errors": 0.0,
        "hit_rate": round(0.874 + 0.02 * swing, 4),
        "queue": round(1.2 + 0.2 * swing, 3),
        "compute": round(3.1 + 0.1 * swing, 3),
        "network": 0.4,
        "workers": workers,
    }


def history(seconds: int = 120, names: tuple[str, ...] = NAMES) -> Json:
    """GET /history, oldest first."""
    return {"step_s": 1, "points": [point(age_s, names) for age_s in reversed(range(seconds))]}


def hottest() -> list[Json]:
    """The inputs that are asked for most often."""
    texts = ("[0.1,0.2,0.3,0.4,0.5]", "[16,0,3,9,1,0,0,12]", '{"ids":[101,2023,102]}', "float32[1,3,224,224] 602 kB")
    counts = (412, 230, 118, 61)
    return [
        {
            "model": "digits",
            "key": f"{number + 10:016x}",
            "input": text,
            "count": count,
            "share": round(count / 3169, 4),
            "owner": NAMES[number % 3],
            "kept": number < 2,
        }
        for number, (text, count) in enumerate(zip(texts, counts, strict=True))
    ]


def batch_sizes() -> list[Json]:
    """A worker's batches by their size and by what released them; a size is an upper bound of the rows."""
    found = ((1, 0, 3, 410), (2, 0, 2, 300), (4, 0, 4, 911), (8, 0, 3, 1502), (16, 0, 0, 620), (32, 950, 0, 88))
    return [{"size": size, "full": full, "timeout": late, "free": free} for size, full, late, free in found]


@cache
def table(names: tuple[str, ...] = NAMES) -> Table:
    """The table of so many workers, as a gateway makes it."""
    return Table(dict.fromkeys(names, 1.0), 150, xxh3_64_intdigest)


def ring(names: tuple[str, ...] = NAMES) -> Json:
    """GET /ring."""
    made = table(names)
    owners = [names.index(made.owners(slot << 48)[0]) for slot in range(0, 65_536, STEP)] if names else []
    shares = {name: round(share, 4) for name, share in made.shares().items()} if names else {}
    return {"revision": 7, "virtual_nodes": 150, "workers": list(names), "owners": owners, "shares": shares}


def where(body: bytes, stats: Json) -> tuple[int, Json]:
    """POST /where, as the breakers in `stats` are: status and answer."""
    try:
        fields = json.loads(body)
        whole = {"request_id": "", **fields} if isinstance(fields, dict) else fields
        _, ask, model = decode_request(json.dumps(whole).encode())
    except ValueError:
        return 400, {"error": "the body is not valid JSON: it ends too early", "code": "invalid_json"}
    except ApiError as error:
        return error.status, {"error": error.message, "code": error.code}
    key = key_of(ask, seed_of(model or "digits", "1"))
    names = tuple(worker["name"] for worker in stats["workers"])
    order = list(table(names).owners(key))
    closed = {each["name"] for each in stats["circuit_breakers"] if each["state"] == "CLOSED"}
    now = next((name for name in order if name in closed), None)
    why = "owner; its breaker is closed"
    if now is None:
        why = "no worker can take it now"
    elif now != order[0]:
        why = f"{order[0]} owns it, but its breaker is OPEN: next is {now}"
    return 200, {
        "model": model or "digits",
        "version": "1",
        "key": f"{key:016x}",
        "slot": key >> 48,
        "owner": order[0],
        "successors": order[1:],
        "now": now,
        "why": why,
        "kept": False,
    }


def trace(number: int = 0, **values: Any) -> Json:
    """One explained request: computed in a batch of seven."""
    parts = {"gateway": 0.05, "waiting": 0.0, "network": 0.31, "worker": 0.1, "queue": 1.2, "compute": 3.1}
    at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(1_700_000_000 - number))
    return {
        "id": f"t{number}",
        "at": f"{at}.000+00:00",
        "model": "digits",
        "version": "1",
        "key": f"{number + 10:016x}",
        "status": 200,
        "answered_by": "worker_2",
        "cache": "miss",
        "why": "owner",
        "owner": "worker_2",
        "attempts": [{"worker": "worker_2", "began_ms": 0.0, "took_ms": 4.71, "outcome": "answered", "reason": ""}],
        "batch": {"id": 1234 + number, "rows": 7, "requests": 7, "release": "free", "session": 0},
        "parts_ms": parts,
        "total_ms": 4.76,
        **values,
    }


def traces() -> Json:
    """GET /traces: computed, kept by the gateway, passed on and failed ones, newest first."""
    hit = {"gateway": 0.01, "waiting": 0.0, "network": 0.0, "worker": 0.0, "queue": 0.0, "compute": 0.0}
    lost = [
        {"worker": "worker_1", "began_ms": 0.0, "took_ms": 3.2, "outcome": "lost", "reason": "the connection was lost"},
        {"worker": "worker_2", "began_ms": 3.2, "took_ms": 4.7, "outcome": "answered", "reason": ""},
    ]
    passed_on = {"gateway": 0.05, "waiting": 3.2, "network": 0.31, "worker": 0.1, "queue": 1.2, "compute": 3.1}
    failed = [{**lost[0], "took_ms": 30_000.0, "outcome": "expired", "reason": "no answer in time"}]
    late = {**hit, "gateway": 0.05, "waiting": 30_000.0}
    kept: Json = {"answered_by": "gateway", "cache": "gateway", "attempts": [], "batch": None}
    second = {"owner": "worker_1", "why": "next in line: worker_1 is OPEN", "attempts": lost}
    return {
        "sampled_per_s": 1.0,
        "traces": [
            trace(0),
            trace(1, **kept, parts_ms=hit, total_ms=0.01),
            trace(2, **second, parts_ms=passed_on, total_ms=7.96),
            trace(3, status=504, answered_by="gateway", attempts=failed, batch=None, parts_ms=late, total_ms=30_000.05),
        ],
    }
