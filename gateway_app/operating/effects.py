"""What an operator's action will do, in a sentence with numbers, for whoever is to confirm it."""

from __future__ import annotations

from collections.abc import Callable

from gateway_app.core.breaker import State
from gateway_app.core.heirs import heirs
from gateway_app.operating.situation import ModelNow, Situation, WorkerNow

# So many heirs of a worker's keys are named; the others are counted.
NAMED = 3


def trip(now: Situation, name: str) -> str:
    """Of opening a worker's breakers."""
    opens = f"The breaker of {name} opens in every gateway: it gets nothing new until a trial finds that it answers."
    opens += f" The first trial is after about {now.tuning.open_seconds:g} s."
    if not _others(now, name, _takes):
        return _joined(opens, f"No other worker can answer: requests are still tried on {name}", _in_flight(now, name))
    return _joined(opens, _moved(now, name), _in_flight(now, name))


def reset(now: Situation, name: str) -> str:
    """Of closing them."""
    worker = now.workers[name]
    states = sorted({state for state in worker.states if state != State.CLOSED})
    if worker.row.isolated:
        return f"{name} is isolated: its breaker stays open until that ends; only its count of failures begins anew."
    closes = f"The breaker of {name} closes in every gateway, and its count of failures begins anew."
    if now.told and not states:
        return _joined(closes, "In this gateway it is closed already")
    return _joined(closes, _gets(now, name, "at once, without a trial"))


def isolate(now: Situation, name: str) -> str:
    """Of keeping a worker from all requests."""
    keeps = f"{name} stays connected and gets no request from any gateway until its isolation ends."
    if not _others(now, name, _may_answer):
        return _joined(keeps, "Nobody else can answer: clients will get 503", _in_flight(now, name))
    return _joined(keeps, _moved(now, name), _in_flight(now, name))


def unisolate(now: Situation, name: str) -> str:
    """Of ending that."""
    return _joined(
        f"{name} is tried with a few requests, then gets all of its keys.",
        _gets(now, name, "when they succeed"),
    )


def drain(now: Situation, name: str) -> str:
    """Of giving a worker nothing new."""
    drains = f"{name} stays connected and finishes what it has, but gets nothing new."
    if not _others(now, name, _takes):
        return _joined(drains, f"No other worker can answer: until one can, {name} goes on getting requests")
    hands = "The results that it used last go to the workers that get its keys" if now.tuning.hand_off else ""
    return _joined(drains, _moved(now, name), hands, _in_flight(now, name))


def undrain(now: Situation, name: str) -> str:
    """Of ending that."""
    return _joined(f"{name} takes requests again.", _gets(now, name, "at once"))


def enable(now: Situation, name: str) -> str:
    """Of connecting to a worker."""
    share = now.share(name, now.then or now.enabled | {name})
    others = ", which the others give up" if now.enabled else ""
    return f"Gateways connect to {name}. Once it is connected it gets {_percent(share)} of all keys{others}."


def disable(now: Situation, name: str) -> str:
    """Of letting a worker go."""
    closes = f"Gateways close their connections to {name} and forget its state; its process runs on."
    then = now.enabled - {name} if now.then is None else now.then
    if not then.intersection(_others(now, name, _may_answer)):
        return _joined(closes, "Nobody else can answer: clients will get 503", _in_flight(now, name))
    return _joined(closes, _moved(now, name, then), _in_flight(now, name))


def flush(now: Situation, name: str) -> str:
    """Of forgetting results; every worker's with `all`."""
    chosen = [worker for worker in now.workers.values() if worker.row.enabled and name in ("all", worker.row.name)]
    whose = "every worker" if name == "all" else name
    counts = [worker.cached for worker in chosen if worker.cached is not None]
    known = f" ({sum(counts):,} results)" if counts else ""
    hot = f" ({now.hot_entries:,} in this one)" if now.hot_entries is not None else ""
    return (
        f"The cache of {whose} is emptied{known}, and so is what each gateway keeps itself{hot}. No earlier result is"
        " served after that: inputs that are asked for again are computed again."
    )


def load(now: Situation, name: str) -> str:
    """Of having workers look at a model's files."""
    model = now.models.get(name)
    if model is not None and model.versions:
        return (
            f"Workers look for new versions and changed files of {name}. What serves now ({_versions(model)}) serves on"
            " until all of them have the new one; a file that cannot be loaded changes nothing."
        )
    unknown = now.told and model is None and name not in now.records
    sought = f"No worker has spoken of {name} yet: they look for it in MODEL_REPOSITORY." if unknown else ""
    return sought or f"Workers load {name}; clients can ask for it once all that have its files are ready."


def unload(now: Situation, name: str) -> str:
    """Of letting a model go."""
    model = now.models.get(name)
    served = f" ({_versions(model)})" if model is not None and model.versions else ""
    on = f" by {_count(len(model.workers), 'worker')}" if model is not None and model.workers else ""
    ends = f"Clients get 404 for {name}{served} until it is loaded again. It is let go{on}, with its cached results."
    plain = " It is the model of a plain /infer: that is answered by 404 too." if model and model.default else ""
    return ends + plain


EFFECTS: dict[str, Callable[[Situation, str], str]] = {
    each.__name__: each
    for each in (trip, reset, isolate, unisolate, drain, undrain, enable, disable, flush, load, unload)
}


def _versions(model: ModelNow) -> str:
    return f"version{'' if len(model.versions) == 1 else 's'} {', '.join(model.versions)}"


def _takes(worker: WorkerNow) -> bool:
    return worker.takes


def _may_answer(worker: WorkerNow) -> bool:
    return worker.may_answer


def _others(now: Situation, name: str, can: Callable[[WorkerNow], bool]) -> list[str]:
    return [other for other, worker in now.workers.items() if other != name and can(worker)]


def _moved(now: Situation, name: str, then: frozenset[str] | None = None) -> str:
    """Where a worker's keys go; "" if it has none. `then`: who is on the ring after that, if that changes."""
    worker, share = now.workers[name], now.share(name)
    if not worker.takes:
        return f"It gets none of its keys ({_percent(share)}) as it is" if share else ""
    before, after = now.table(now.enabled), now.table(now.enabled if then is None else then)
    if before is None or after is None:
        return f"Its keys ({_percent(share)} of all) go to the others"
    away = {other for other, each in now.workers.items() if not each.takes}
    parts = heirs(before, after, name, away)
    if not parts:
        return f"Its keys ({_percent(share)} of all) go to nobody else"
    named = [f"{heir} ({_percent(part)})" for heir, part in list(parts.items())[:NAMED]]
    if len(parts) > NAMED:
        rest = sum(list(parts.values())[NAMED:])
        named.append(f"{_count(len(parts) - NAMED, 'other')} ({_percent(rest)})")
    return f"Its keys ({_percent(share)} of all) go to {_listed(named)}"


def _gets(now: Situation, name: str, when: str) -> str:
    row, share = now.workers[name].row, now.share(name)
    if not row.enabled:
        return f"{name} is disabled: it gets nothing before it is enabled"
    return f"Its keys ({_percent(share)} of all) go to it again, {when}"


def _in_flight(now: Situation, name: str) -> str:
    count = now.workers[name].in_flight
    if count is None:
        return ""
    if count == 0:
        return "Nothing is in flight there"
    return f"{_count(count, 'request')} {'is' if count == 1 else 'are'} in flight there and will be answered"


def _joined(*sentences: str) -> str:
    return " ".join(f"{each.rstrip('.')}." for each in sentences if each)


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _percent(part: float) -> str:
    return f"{part * 100:.1f} %"
