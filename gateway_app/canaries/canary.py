"""Starts a canary, makes what it tries everybody's, or ends it: for the admin and the command line, in a thread."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.core.exceptions import ValidationError

from gateway_app.adminpages.combinations import new_conflicts
from gateway_app.adminpages.modelstates import answering_versions
from gateway_app.canaries.canarytext import tried, word
from gateway_app.canaryrecord import FIELDS as FIELDS
from gateway_app.canaryrecord import Canary, clean_tuning
from gateway_app.models import ModelRecord, Tuning, Worker, recorded
from gateway_app.modeltext import read_versions, write_list
from gateway_app.revisions import payload_of_rows


def start(
    worker: str,
    changed: Mapping[str, Any],
    author: str = "",
    comment: str = "",
    *,
    model: str = "",
    version: str = "",
    stable: str = "",
) -> str:
    """One worker tries these fields of Tuning, and this version of a model; what is said of it.

    `stable`: the version that the others keep; "": the one that answers now, if that is known. Raises ValidationError.
    """
    with recorded(author=author, comment=comment):
        payload = payload_of_rows()  # from here on nobody else changes anything
        _check_worker(worker)
        canary = Canary(worker=worker, tuning=dict(changed), model=model, version=version, author=author)
        if not canary.tuning and not model:
            raise ValidationError("Nothing was changed, so there is nothing to try.")
        _check_fields(canary.tuning)
        _full_clean(canary)
        canary.tuning = _differing(canary.tuning, payload["tuning"])
        if not canary.tuning and not model:
            raise ValidationError("All workers have these settings already. Change one of them to try it.")
        _check_tuning(canary.tuning, payload)
        pinned = _pin(canary, stable) if model else ""
        canary.save()
    return f"Now tried on {worker}: {tried(_row(canary))}.{pinned}"


def promote(author: str = "", comment: str = "", seen: Canary | None = None) -> str:
    """What one worker tries becomes everybody's; what is said of it. Raises ValidationError, also if by now another
    canary is tried than the one that was `seen`."""
    with recorded(author=author, note="canary promoted", comment=comment):
        payload = payload_of_rows()
        canary = _present(seen)
        # Since it was started, other settings may have changed for all.
        if found := new_conflicts(payload, {**payload, "tuning": {**payload["tuning"], **canary.tuning}}):
            raise ValidationError(f"Not everybody can get what {canary.worker} tries. {found[0].sentence}")
        if canary.tuning:
            tuning = Tuning.objects.get(pk=Tuning.ONLY)
            for name, value in canary.tuning.items():
                setattr(tuning, name, value)
            _full_clean(tuning)
            tuning.save()
        if canary.model:
            row = ModelRecord.objects.filter(name=canary.model).first() or ModelRecord(name=canary.model)
            kept = [each for each in read_versions(row.versions) if each != _newest(row)]
            row.versions = write_list(dict.fromkeys((*kept, canary.version)))
            _full_clean(row)
            row.save()
        said = f"All workers get what {canary.worker} has tried: {tried(_row(canary))}."
        if canary.model:
            said += (
                f" Versions of {canary.model} are listed as {row.versions}: a later one is served once it is written"
                " there, or the list is emptied in the model's settings."
            )
        canary.delete()
    return said


def abort(author: str = "", comment: str = "", seen: Canary | None = None) -> str:
    """The worker goes back to what all others do; what is said of it. Raises as `promote` does."""
    with recorded(author=author, note="canary aborted", comment=comment):
        payload_of_rows()
        canary = _present(seen)
        said = f"No longer tried on {canary.worker}: {tried(_row(canary))}."
        if canary.model and (row := ModelRecord.objects.filter(name=canary.model).first()) and row.versions:
            said += (
                f" Versions of {canary.model} stay {row.versions}, so that no worker loads {canary.version} by itself:"
                " change that in the model's settings."
            )
        canary.delete()
    return said


def _present(seen: Canary | None) -> Canary:
    canary = Canary.objects.first()
    if canary is None:
        raise ValidationError("No worker tries anything now.")
    if seen is not None and seen.started != canary.started:
        raise ValidationError(
            f"What is tried has changed meanwhile: now {canary.worker} tries {tried(_row(canary))}. Look at that first."
        )
    return canary


def _check_worker(name: str) -> None:
    present = Canary.objects.first()
    if present is not None:
        raise ValidationError(
            f"{present.worker} tries {tried(_row(present))} already. Promote or abort that first: one thing at a time."
        )
    others = list(Worker.objects.filter(enabled=True).values_list("name", flat=True))
    worker = Worker.objects.filter(name=name).first()
    if worker is None:
        raise ValidationError(f"There is no worker {name!r}. Choose one of {', '.join(others) or 'none yet'}.")
    for state in ("draining", "isolated"):
        if getattr(worker, state):
            raise ValidationError(f"{name} is {state}, so it would show nothing. End that, or choose another worker.")
    if not worker.enabled:
        raise ValidationError(f"{name} is disabled, so it would show nothing. Enable it, or choose another worker.")
    if others == [name]:
        raise ValidationError(
            f"{name} is the only enabled worker: there would be nothing to compare it with. Enable another one, or"
            " change it for all."
        )


def _check_fields(values: Mapping[str, Any]) -> None:
    """Says of what a form has changed beside, that it cannot go to one worker."""
    others = [str(_label(name)) for name in values if name not in FIELDS]
    if others:
        can = ", ".join(str(_label(name)) for name in FIELDS)
        raise ValidationError(
            f"{', '.join(others)}: not of a single worker, so it cannot be tried on one. What can: {can}. Save the"
            " other changes for all first."
        )


def _check_tuning(values: Mapping[str, Any], payload: Mapping[str, Any]) -> None:
    """Refuses what would be refused for all, and what nobody would notice."""
    tuning = {**payload["tuning"], **values}
    _full_clean(Tuning(pk=Tuning.ONLY, **tuning))
    if found := new_conflicts(payload, {**payload, "tuning": tuning}):
        raise ValidationError(found[0].sentence)
    if "batch_wait_ms" in values and tuning["batch_eager"]:
        raise ValidationError(
            f"{_label('batch_wait_ms')} {word(values['batch_wait_ms'])} would change nothing: batches start at once"
            f" when the model is free. Try it together with {_label('batch_eager')} off."
        )
    own = {row["name"]: row for row in payload["models"]}
    served = answering_versions()
    for name in ("batch_size", "batch_wait_ms", "cache_entries"):
        if name in values and served and all(own.get(each, {}).get(name) is not None for each in served):
            said = ", ".join(f"{each} {word(own[each][name])}" for each in sorted(served))
            raise ValidationError(
                f"{_label(name)} {word(values[name])} would change nothing: each model has its own ({said}). Empty it"
                " in the model's settings to try another one here."
            )


def _pin(canary: Canary, stable: str) -> str:
    """Lists the version that all others keep, so that none of them loads the new one by itself; says so."""
    row = ModelRecord.objects.filter(name=canary.model).first() or ModelRecord(name=canary.model)
    if not row.loaded:
        raise ValidationError(f"{canary.model} is unloaded. Load it first: the others go on with what is loaded.")
    served = answering_versions()
    if served and canary.model not in served:
        raise ValidationError(f"No worker serves {canary.model!r}. These are served: {', '.join(sorted(served))}.")
    listed = read_versions(row.versions)
    keeps = _newest(row) or stable.strip() or served.get(canary.model, "")
    if not keeps:
        raise ValidationError(
            f"No gateway says here which version of {canary.model} answers now, so what the others are to keep is not"
            " known. List it first, under versions in the model's settings."
        )
    if canary.version in (*listed, keeps):
        raise ValidationError(
            f"{canary.model} version {canary.version} is everybody's already. Name one that only {canary.worker} is to"
            " have."
        )
    if listed:
        return ""
    row.versions = keeps
    _full_clean(row)
    row.save()
    return f" All others keep version {keeps} of {canary.model}: it is listed in the model's settings now."


def _newest(row: ModelRecord) -> str:
    """Of the versions that are listed, the one that answers; "" if none is."""
    return max(read_versions(row.versions), key=int, default="")


def _differing(values: Mapping[str, Any], present: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in clean_tuning(values).items() if value != present[name]}


def _full_clean(row: Canary | Tuning | ModelRecord) -> None:
    """Raises ValidationError with one sentence, whichever field it is of."""
    try:
        row.full_clean(validate_unique=False, validate_constraints=False)
    except ValidationError as error:
        name, sentences = next(iter(error.message_dict.items()))
        raise ValidationError(f"{_label(name)}: {sentences[0]}" if isinstance(row, Tuning) else sentences[0]) from None


def _label(name: str) -> str:
    try:
        return str(Tuning._meta.get_field(name).verbose_name)  # type: ignore[union-attr]
    except LookupError:
        return name


def _row(canary: Canary) -> dict[str, Any]:
    return {name: getattr(canary, name) for name in Canary.PAYLOAD}
