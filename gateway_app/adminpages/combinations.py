"""Settings that are each in their range and yet do not go together, in sentences that name both and the fix.

Forms refuse them, and so does going back to a revision. A revision that is in force already keeps its values: an older
version may have stored them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from gateway_app.core.ring import MAX_POINTS

Payload = Mapping[str, Any]
Row = Mapping[str, Any]

# Of one result with its input in a worker's cache: no model takes or gives less.
SMALLEST_RESULT_BYTES = 32


@dataclass(frozen=True, slots=True)
class Conflict:
    """Values that defeat each other. `model` is whose settings they are of, "" for the tuning.

    `fields` are the tuning's that take part in it, `own` the model's; the first of either is where a form says it.
    """

    sentence: str
    fields: tuple[str, ...]
    model: str = ""
    own: tuple[str, ...] = ()


def conflicts(payload: Payload) -> list[Conflict]:
    """All that is self-defeating in a configuration whose values are valid one by one."""
    tuning = payload["tuning"]
    found = list(_of_tuning(tuning))
    for row in payload.get("models", ()):
        found += _of_model(row, tuning)
    return found


def new_conflicts(before: Payload, after: Payload) -> list[Conflict]:
    """Those that the change makes: what was so already is no reason to refuse something else."""
    known = {each.sentence for each in conflicts(before)} if before else set()
    return [each for each in conflicts(after) if each.sentence not in known]


def _of_tuning(tuning: Row) -> Iterator[Conflict]:
    timeout, silence, queue = tuning["request_timeout_ms"], tuning["silence_ms"], tuning["queue_ms"]
    if silence and silence >= timeout:
        yield Conflict(
            f"A request ends after {timeout:,} ms (time per request), before {silence:,} ms of silence are over: it"
            f" would never go to another worker. Take less than {timeout:,} ms here, or allow more time per request.",
            ("silence_ms", "request_timeout_ms"),
        )
    if queue > timeout:
        yield Conflict(
            f"A request ends after {timeout:,} ms (time per request): nobody waits for the end of a queue of {queue:,}"
            f" ms. Take {timeout:,} ms or less here, or allow more time per request.",
            ("queue_ms", "request_timeout_ms"),
        )
    if not tuning["batch_eager"] and not tuning["batch_wait_ms"]:
        yield Conflict(
            "A batch is to wait until it is full, and yet 0 ms at the longest. Allow more than 0 ms here, or let"
            " batches start at once when the model is free.",
            ("batch_wait_ms", "batch_eager"),
        )
    if sentence := _cache_too_small(tuning["cache_entries"], tuning["cache_mib"]):
        yield Conflict(sentence, ("cache_entries", "cache_mib"))


def _of_model(row: Row, tuning: Row) -> Iterator[Conflict]:
    name = row["name"]
    deadline = row.get("deadline_ms")
    wait = row.get("batch_wait_ms")
    if not tuning["batch_eager"] and row.get("batches") is not False and (deadline is not None or wait is not None):
        limit = tuning["request_timeout_ms"] if deadline is None else deadline
        longest = tuning["batch_wait_ms"] if wait is None else wait
        if longest >= limit:
            of_tuning = ["batch_eager"]
            of_tuning += ["request_timeout_ms"] if deadline is None else []
            of_tuning += ["batch_wait_ms"] if wait is None else []
            yield Conflict(
                f"Model {name}: with {longest:,g} ms of waiting for a batch, a request would run into its limit of"
                f" {limit:,} ms before the batch starts. Wait less, or allow more time per request.",
                tuple(of_tuning),
                name,
                ("deadline_ms" if wait is None else "batch_wait_ms",),
            )
    entries = row.get("cache_entries")
    if entries and (sentence := _cache_too_small(entries, tuning["cache_mib"])):
        yield Conflict(f"Model {name}: {sentence}", ("cache_mib",), name, ("cache_entries",))


def _cache_too_small(entries: int, mib: int) -> str:
    fitting = mib * 2**20 // SMALLEST_RESULT_BYTES
    if entries <= fitting:
        return ""
    return (
        f"{entries:,} results do not fit into {mib:,} MiB: the smallest takes {SMALLEST_RESULT_BYTES} bytes. Take"
        f" {fitting:,} entries or fewer, or more MiB."
    )


def without_effect(payload: Payload) -> list[str]:
    """What is set and changes nothing as long as something else is as it is, and what nobody can have meant."""
    return [*_idle_of_tuning(payload), *_idle_of_models(payload), *_nobody_left(payload)]


def _idle_of_tuning(payload: Payload) -> Iterator[str]:
    tuning = payload["tuning"]
    if tuning["hedging"] and not tuning["retry_percent"]:
        yield "With 0 % of second attempts no second worker is asked when one is slow."
    if not tuning["batch_eager"] and tuning["batch_size"] == 1:
        yield "With 1 request per batch every batch is full at once: none waits for another request."
    if tuning["hand_off"] and not tuning["cache_entries"]:
        yield "With 0 entries per worker there are no results to move along with inputs."
    points = sum(row["weight"] for row in payload.get("workers", ()) if row["enabled"]) * tuning["virtual_nodes"]
    if points > MAX_POINTS:
        yield (
            f"{points:,.0f} points (virtual nodes, times the weights of all workers) are more than the {MAX_POINTS:,}"
            " that a ring has: they are halved until they fit."
        )


def _idle_of_models(payload: Payload) -> Iterator[str]:
    for row in payload.get("models", ()):
        if row.get("cached") is False and row.get("cache_entries"):
            yield f"Model {row['name']} keeps no results: its {row['cache_entries']:,} entries stay empty."
        if row.get("batches") is False and (row.get("batch_size") or 1) > 1:
            yield f"Model {row['name']} runs requests one by one: its {row['batch_size']} rows per batch do nothing."
        if not row.get("loaded", True) and row["name"] == payload["tuning"]["default_model"]:
            yield f"{row['name']} is the model of /infer and is not to be loaded: who names no model gets 404."


def _nobody_left(payload: Payload) -> Iterator[str]:
    workers = payload.get("workers", ())
    if workers and not any(row["enabled"] and not row["isolated"] for row in workers):
        yield "No worker is left that may be asked: clients get 503."
