"""How the worker that tries something does beside the others, in figures and in one sentence."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from gateway_app.canaries.canarywatch import CanaryWatch, Tally, routes_compared
from gateway_app.canaries.trial import Trial
from gateway_app.core.breaker import State

if TYPE_CHECKING:
    from gateway_app.catalog import Key
    from gateway_app.core.call import Route
    from gateway_app.gateway import Gateway

# So many answers of either side make a difference worth something.
NEEDED = 200
# By so much figures differ by chance: times as long, points of percent; and so many failures are no chance.
TIMES, HIT_POINTS, ERROR_POINTS, FAILURES = 1.2, 5.0, 1.0, 5
# Less than this is nothing that anybody notices.
NOTICED_MS = 0.2


@dataclass(frozen=True, slots=True)
class Measure:
    """One figure of both sides; None: nothing is known. `better` is what a larger one is: 1, -1, or 0 if neither."""

    what: str
    canary: float | None
    others: float | None
    unit: str
    better: int = 0
    places: int = 2

    @property
    def row(self) -> dict[str, Any]:
        """As `/stats` shows it."""
        canary, others = (None if each is None else round(each, self.places) for each in (self.canary, self.others))
        return {"what": self.what, "canary": canary, "others": others, "unit": self.unit}

    @property
    def difference(self) -> tuple[int, str]:
        """1 and how it is better, -1 and how it is worse, or 0."""
        canary, others = self.canary, self.others
        if canary is None or others is None or not self.better:
            return 0, ""
        if self.unit == "%":
            points = canary - others
            limit = ERROR_POINTS if self.better < 0 else HIT_POINTS
            side = 0 if abs(points) < limit else 1 if points * self.better > 0 else -1
            return side, f"{self.what} {canary:.1f} %, the others' {others:.1f} %"
        near = abs(canary - others) < NOTICED_MS or max(canary, others) < TIMES * min(canary, others)
        side = 0 if near else 1 if (canary - others) * self.better > 0 else -1
        return side, f"{self.what} {canary:.1f} {self.unit}, the others' {others:.1f} {self.unit}"


def compare(gateway: Gateway) -> dict[str, Any] | None:
    """What `/stats` says under "canary"; None if nothing is tried. On the loop; counts are of this gateway alone."""
    trial = gateway.snapshot.canary
    if trial is None:
        return None
    watch = gateway.canary_watch
    idle = why_idle(gateway, trial)
    found = list(measures(gateway, trial, watch))
    count = min(watch.canary.answered, watch.others.answered)
    return {
        "worker": trial.worker,
        "tuning": dict(trial.tuning),
        "model": trial.model,
        "version": trial.version,
        "author": watch.author,
        "age_s": round(watch.age_s, 1),
        "counted_s": round(watch.counted_s, 1),
        "state": "idle" if idle else "in force",
        "requests": watch.canary.answered,
        "needed": NEEDED,
        "compare": [each.row for each in found if each.canary is not None or each.others is not None],
        "verdict": idle or verdict(found, count, watch.canary.failed),
    }


def measures(gateway: Gateway, trial: Trial, watch: CanaryWatch) -> Iterator[Measure]:
    """Since the canary began."""
    canary, others = watch.canary, watch.others
    routes = list(routes_compared(gateway, trial))
    workers = max(1, len({route.name for side, _, route in routes if not side}))
    seconds = max(1.0, watch.counted_s)

    def of(what: str, figure: Callable[[Tally], float | None], unit: str, better: int = 0, places: int = 2) -> Measure:
        return Measure(what, figure(canary), figure(others), unit, better, places)

    yield Measure("requests per worker", canary.answered / seconds, others.answered / seconds / workers, "/s", places=1)
    yield of("hit rate", lambda each: _part(each.hits, each.hits + each.computed), "%", 1, 1)
    yield of("mean batch", lambda each: _ratio(each.rows, each.batches), "rows")
    yield from _quantiles(routes, trial, watch)
    yield of("mean of computed answers", lambda each: _ms(each.sent_s, each.computed), "ms", -1)
    yield of("of that, in the queue", lambda each: _ms(each.queue_ns / 1e9, each.ran), "ms")
    yield of("of that, computing", lambda each: _ms(each.compute_ns / 1e9, each.ran), "ms")
    yield of("errors", lambda each: _part(each.failed, each.answered + each.failed), "%", -1)
    counts = gateway.lineup.trials.counts
    if trial.model:
        yield Measure("left to the other version", _part(counts.passed_on, counts.asked), 0.0, "%", -1)


def _quantiles(routes: list[tuple[bool, Key, Route]], trial: Trial, watch: CanaryWatch) -> Iterator[Measure]:
    """Of the model that the canary's worker has computed most of."""
    main = next((key for key, _ in watch.computed_of.most_common(1)), None)
    sides: tuple[list[Route], list[Route]] = ([], [])
    for side, key, route in routes:
        # A version that is tried has another key than the one that it is compared with.
        if main is not None and (key == main or trial.model) and route.pace.known:
            sides[not side].append(route)
    for what, figures in (
        ("p50", [[each.pace.median for each in side] for side in sides]),
        ("p99", [[each.pace.p99 for each in side] for side in sides]),
    ):
        mine, theirs = figures
        yield Measure(f"{what} of computed answers", _median(mine), _median(theirs), "ms", -1)


def verdict(found: list[Measure], count: int, failures: int) -> str:
    """One sentence; none about a difference while there are too few answers for that."""
    if count < NEEDED:
        return f"Not enough requests yet: {count} of {NEEDED}."
    told = [(each, *each.difference) for each in found]
    worse = [text for each, side, text in told if side < 0 and (each.what != "errors" or failures >= FAILURES)]
    better = [text for _, side, text in told if side > 0]
    if worse and better:
        return f"Both: worse is {'; '.join(worse)}. Better is {'; '.join(better)}."
    if worse or better:
        return f"{'Worse' if worse else 'Better'}: {'; '.join(worse or better)}."
    return f"No clear difference after {count:,} requests."


def why_idle(gateway: Gateway, trial: Trial) -> str:
    """Why nothing is tried though it should be, as a sentence; "" if it is."""
    worker = trial.worker
    entry = next((each for each in gateway.snapshot.workers if each.name == worker), None)
    link = gateway.links.get(worker)
    if entry is None:
        return f"There is no worker {worker} any more: abort this, or add it again."
    for state, is_so in (
        ("disabled", not entry.enabled),
        ("isolated", entry.isolated),
        ("draining", entry.draining or (link is not None and link.leaving)),
        ("not connected", link is None or not link.ready),
    ):
        if is_so:
            return f"{worker} is {state}: the others do its work."
    assert link is not None
    if link.revision < gateway.snapshot.revision:
        return f"{worker} has not taken it yet."
    return _why_no_version(gateway, trial) if trial.model else _why_no_effect(gateway, trial)


def _why_no_version(gateway: Gateway, trial: Trial) -> str:
    worker, name, version = trial.worker, trial.model, trial.version
    wish = gateway.snapshot.node.models.get(name)
    if wish is not None and not wish.loaded:
        return f"{name} is unloaded: load it, or abort this."
    if wish is None or not wish.versions:
        return f"No version of {name} is listed in its settings: list the one that the others keep."
    if version in wish.versions:
        return f"All workers are told to load version {version} of {name}: abort this, it is everybody's."
    model = gateway.lineup.served.get((name, version))
    route = model.router.routes.get(worker) if model is not None else None
    if route is None or not route.up:
        reasons = gateway.lineup.catalog.reasons(name, version)
        return f"{worker} has no version {version} of {name} ready{reasons and ': '}{reasons}."
    if route.breaker.state is State.OPEN:
        return f"The breaker of {worker} for version {version} is open: {route.breaker.why}."
    return ""


def _why_no_effect(gateway: Gateway, trial: Trial) -> str:
    """A model's own settings come first, also those beside its file, which only its worker has read."""
    wanted = trial.tuning.get("batch_size")
    if wanted is None or len(trial.tuning) > 1:
        return ""
    said = gateway.lineup.catalog.serving.values()
    infos = [
        info
        for serving in said
        for info in gateway.lineup.catalog.said(serving.info.name).get(trial.worker, ())
        if info.current and info.batches
    ]
    if infos and all(info.max_batch_size != wanted for info in infos):
        own = ", ".join(sorted({f"{info.name} {info.max_batch_size}" for info in infos}))
        return f"It changes nothing: each model on {trial.worker} has its own size of batches ({own})."
    return ""


def _ratio(total: float, count: int) -> float | None:
    return total / count if count else None


def _part(count: int, total: int) -> float | None:
    return 100 * count / total if total else None


def _ms(seconds: float, count: int) -> float | None:
    return 1000 * seconds / count if count else None


def _median(values: list[float]) -> float | None:
    return 1000 * median(values) if values else None
