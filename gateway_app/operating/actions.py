"""What operators do by hand to workers and models; the page, the admin, the HTTP API and `operate` all end here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from django.core.exceptions import ValidationError

from gateway_app import modelcontrol
from gateway_app.eventlog import eventrows
from gateway_app.models import Event, ModelRecord, Worker, recorded
from gateway_app.operating import effects
from gateway_app.operating.situation import Situation, situation
from gateway_app.validators import validate_model_name

ALL = "all"
MAX_COMMENT = 1000  # characters
WORKERS, MODELS = "gateway_app.operate_worker", "gateway_app.operate_modelrecord"


class ActionError(Exception):
    """An action that cannot be done; the message says why, and what could be."""


class UnknownTarget(ActionError):
    """There is no such worker or model."""


class NothingToDo(ActionError):
    """It is so already, or cannot be as things are."""


class BadRequest(ActionError):
    """What was given is no target or comment."""


@dataclass(frozen=True, slots=True)
class Action:
    """One thing that an operator can do. `done` is what it is called afterwards, as in `worker_2 tripped`."""

    name: str
    label: str
    done: str
    kind: str  # "worker" or "model": what it is done to
    permission: str
    icon: str
    takes_all: bool = False  # "all" is a target too
    values: Mapping[str, Any] | None = None  # fields of a worker's row that it sets
    already: str = ""  # what a worker is that has these values


def _worker(name: str, label: str, done: str, icon: str, already: str = "", **values: Any) -> Action:
    return Action(name, label, done, "worker", WORKERS, icon, values=values or None, already=already)


ACTIONS: dict[str, Action] = {
    action.name: action
    for action in (
        _worker("trip", "Trip the breaker", "breaker tripped", "bolt"),
        _worker("reset", "Reset the breaker", "breaker reset", "check"),
        _worker("isolate", "Isolate", "isolated", "ban", "isolated already", isolated=True),
        _worker("unisolate", "End isolation", "no longer isolated", "link", "not isolated", isolated=False),
        _worker("drain", "Drain", "draining", "pause", "draining already", draining=True),
        _worker("undrain", "End draining", "taking requests again", "play", "not draining", draining=False),
        _worker("enable", "Enable", "enabled", "plus", "enabled already", enabled=True),
        _worker("disable", "Disable", "disabled", "minus", "disabled already", enabled=False),
        Action("flush", "Flush the cache", "cache flushed", "worker", WORKERS, "broom", takes_all=True),
        Action("load", "Load", "ordered to load", "model", MODELS, "download"),
        Action("unload", "Unload", "ordered to unload", "model", MODELS, "eject"),
    )
}  # fmt: skip


def effect(action: Action, target: str, now: Situation | None = None) -> str:
    """What it will do, with numbers. Raises ActionError if there is nothing to do. For any thread but the loop's."""
    now = now or situation()
    if action.kind == "worker":
        _rows(action, target, {name: worker.row for name, worker in now.workers.items()})
    else:
        _check_model(action, target, now.records, now if now.told else None)
    return effects.EFFECTS[action.name](now, target)


def effects_of(action: Action, targets: Sequence[str]) -> list[tuple[str, str, str]]:
    """Each target with what will be done to it, or else why there is nothing to do: of one after the other, so that the
    last worker's says that it is the last. Raises ActionError for what is no target. For any thread but the loop's."""
    now, found = situation(), []
    if action.values and "enabled" in action.values:  # what becomes of the ring is told of all at once
        chosen = frozenset(targets).intersection(now.workers)
        now = replace(now, then=now.enabled | chosen if action.values["enabled"] else now.enabled - chosen)
    for target in targets:
        try:
            found.append((target, effect(action, target, now), ""))
        except NothingToDo as error:
            found.append((target, "", str(error)))
            continue
        if target in now.workers and now.then is None and (action.values or action.name == "trip"):
            now = now.changed(target, action.values or {})
    return found


def perform(action: Action, target: str, author: str, comment: str = "") -> str:
    """Does it, in one revision, with an event that names the author; a sentence that says what was done.

    Raises ActionError. Gateways follow within a second. For any thread but the loop's.
    """
    done, _ = perform_each(action, [target], author, comment)
    return done[0]


def perform_each(
    action: Action,
    targets: Sequence[str],
    author: str,
    comment: str = "",
    after: Callable[[Any], None] = lambda row: None,
) -> tuple[list[str], list[str]]:
    """The same for several targets, all in one revision: what was done, and why the others had nothing to do.

    `after` is given each row that was changed. Raises ActionError if none was.
    """
    comment = clean_comment(comment)
    done, idle = [], []
    now = situation() if action.kind == "model" else None
    with recorded(author=author, comment=comment):
        for target in targets:
            try:
                rows = _perform_worker(action, target) if now is None else [_perform_model(action, target, now)]
            except NothingToDo as error:
                idle.append(str(error))
                continue
            name = "every worker" if target == ALL and action.takes_all else target
            sentence = f"{name}: {action.done}"
            where = {"model": target} if action.kind == "model" else {"worker": "" if name != target else target}
            told = f"{sentence} ({comment})" if comment else sentence
            eventrows.record(Event.Kind.ACTION, told, **where, author=author)
            done.append(sentence)
            for row in rows:
                after(row)
    if not done:
        raise NothingToDo("; ".join(idle))
    return done, idle


def clean_comment(comment: str) -> str:
    """As it is kept; raises BadRequest if it is too long."""
    comment = comment.replace("\0", "").encode(errors="replace").decode().strip()
    if len(comment) > MAX_COMMENT:
        raise BadRequest(f"the comment has {len(comment):,} characters; write {MAX_COMMENT:,} at the most")
    return comment


def _rows(action: Action, target: str, workers: Mapping[str, Worker]) -> list[Worker]:
    if target == ALL and action.takes_all:
        if not any(row.enabled for row in workers.values()):
            raise NothingToDo("no worker is enabled")
        return list(workers.values())  # one that is disabled may be enabled again, with all that it knew
    if target not in workers:
        known = ", ".join(sorted(workers)[:20]) or "none is configured"
        raise UnknownTarget(f"there is no worker {target[:100]!r}; the workers are: {known}")
    _check_worker(action, workers[target])
    return [workers[target]]


def _check_worker(action: Action, row: Worker) -> None:
    if action.values is None and not row.enabled:
        has = "no connection to it" if action.name == "flush" else "no breaker for it"
        raise NothingToDo(f"{row.name} is disabled: there is {has}; enable it first")
    if action.values is not None and all(getattr(row, name) == value for name, value in action.values.items()):
        raise NothingToDo(f"{row.name} is {action.already}")


def _check_model(action: Action, target: str, records: Mapping[str, bool], now: Situation | None) -> None:
    try:
        validate_model_name(target)
    except ValidationError as error:
        raise BadRequest(error.messages[0]) from None
    if action.name != "unload":
        return
    if records.get(target) is False:
        raise NothingToDo(f"{target} is unloaded already")
    if target not in records and now is not None and target not in now.models:
        known = ", ".join(sorted({*records, *now.models})[:20]) or "there is none"
        raise UnknownTarget(f"there is no model {target!r}; the models are: {known}")


def _perform_worker(action: Action, target: str) -> list[Worker]:
    rows = _rows(action, target, {row.name: row for row in Worker.objects.select_for_update()})
    for row in rows:
        if action.values is None:
            row.order, row.order_number = action.name, row.order_number + 1
        for name, value in (action.values or {}).items():
            setattr(row, name, value)
        row.save()
    return rows


def _perform_model(action: Action, target: str, now: Situation) -> ModelRecord:
    records = dict(ModelRecord.objects.values_list("name", "loaded"))
    _check_model(action, target, records, now if now.told else None)
    return modelcontrol.order(target, action.name == "load")
