"""What a form of the configuration asks beside its values: why, and whether the change is to be guarded."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib.admin.widgets import AdminTextInputWidget

from gateway_app.adminpages.combinations import new_conflicts
from gateway_app.adminpages.numberfields import Number
from gateway_app.adminpages.recordedadmin import COMMENT_LENGTH
from gateway_app.models import ModelRecord, Revision, Tuning
from gateway_app.operating.guards import Wish
from gateway_app.revisions import completed
from gateway_app.validators import between

if TYPE_CHECKING:
    ModelForm = forms.ModelForm[Any]
else:  # takes no type parameter when the program runs
    ModelForm = forms.ModelForm

SAVING = ("comment", "guard", "guard_error_points", "guard_p99_factor", "guard_minutes")
FIELDSET = (
    "When it is saved",
    {
        "fields": ("based_on", "comment", "guard", ("guard_error_points", "guard_p99_factor", "guard_minutes")),
        "description": "Each change can be seen, compared and taken back under Revisions.",
    },
)
_DEFAULT = Wish()


class SavingForm(forms.Form):
    """A comment, and a guard."""

    comment = forms.CharField(
        required=False,
        max_length=COMMENT_LENGTH,
        widget=AdminTextInputWidget(),
        help_text="Why, for whoever reads the history: up to 1,000 characters.",
    )
    guard = forms.BooleanField(
        label="Take it back by itself if it does harm",
        required=False,
        help_text="On: if errors or the p99 latency exceed what is said below, the configuration of now comes back.",
    )
    guard_error_points = Number(
        label="Errors up by (percentage points)",
        required=False,
        initial=_DEFAULT.error_points,
        validators=between(0.01, 100, "percentage points"),
        help_text="More errors than now, 0.01 to 100: 1 means from 0.2 % to 1.2 % of all requests.",
    )
    guard_p99_factor = Number(
        label="p99 latency (times the present)",
        required=False,
        initial=_DEFAULT.p99_factor,
        validators=between(1.1, 1000),
        help_text="1.1 to 1,000, and at least 5 ms more than now.",
    )
    guard_minutes = Number(
        label="Within (minutes)",
        required=False,
        initial=_DEFAULT.minutes,
        validators=between(0.2, 1440, "minutes"),
        help_text="0.2 to 1,440. If nothing is worse by then, the change stays.",
    )

    def wish(self) -> Wish | None:
        """The guard that is wanted; None if none is. For a form that is valid."""
        data = self.cleaned_data
        if not data.get("guard"):
            return None
        given = {name: data.get(f"guard_{name}") for name in ("error_points", "p99_factor", "minutes")}
        return Wish(**{name: value for name, value in given.items() if value is not None})


class RecordedForm(ModelForm, SavingForm):
    """A form of rows that become a revision. What does not go together is refused, with both values and the fix, and so
    is what would undo unseen what somebody else has saved since the form was opened."""

    based_on = forms.IntegerField(required=False, widget=forms.HiddenInput())

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance.pk is not None and not self.is_bound:
            newest = Revision.objects.order_by("-id").values_list("id", flat=True).first()
            self.initial["based_on"] = newest or 0

    def is_valid(self) -> bool:
        # Back from the preview, or without a change to it: the form is shown again with what was typed.
        return super().is_valid() and "_edit" not in self.data

    @cached_property
    def changed_data(self) -> list[str]:
        """Of the row's own fields."""
        return [name for name in super().changed_data if name not in self.declared_fields]

    def _post_clean(self) -> None:
        super()._post_clean()  # type: ignore[misc]
        if not self.errors:
            self._refuse_conflicts()
        if not self.errors:
            self._refuse_undoing()

    def _refuse_undoing(self) -> None:
        based_on = self.cleaned_data.get("based_on")
        newest = Revision.objects.order_by("-id").defer("payload").first()
        if not based_on or self.instance.pk is None or newest is None or newest.pk <= based_on:
            return
        seen = Revision.objects.filter(pk=based_on).values_list("payload", flat=True).first()
        now = type(self.instance).objects.filter(pk=self.instance.pk).values(*self.instance.PAYLOAD).first()
        then = _row_of(completed(seen), type(self.instance), now) if seen is not None and now is not None else None
        if now is None or then is None:
            return
        changed = [name for name in now if name in self.fields and then.get(name) != now[name]]
        undone = [str(self.fields[name].label) for name in changed if self.cleaned_data.get(name) != now[name]]
        if undone:
            # It has been said: the next time it is meant.
            sent: Any = self.data
            sent = self.data = sent.copy()
            sent["based_on"] = str(newest.pk)
            who, what = newest.author or "the command line", newest.summary[:200]
            self.add_error(
                None,
                f"Revision {newest.pk} has been saved by {who} since this form was opened ({what}). It would undo that:"
                f" {', '.join(undone)}. Save again to do so, or open the form anew.",
            )

    def _refuse_conflicts(self) -> None:
        row = self.instance
        if isinstance(row, Tuning):
            before = {"tuning": _values(Tuning.objects.filter(pk=row.pk).first() or Tuning()), "models": _models()}
            after = {**before, "tuning": _values(row)}
        elif isinstance(row, ModelRecord):
            models = _models()
            before = {"tuning": _values(Tuning.objects.filter(pk=Tuning.ONLY).first() or Tuning()), "models": models}
            others = [each for each in models if each["name"] != row.name]
            after = {**before, "models": [*others, _values(row)]}
        else:
            return
        for conflict in new_conflicts(before, after):
            named = conflict.own if isinstance(row, ModelRecord) else conflict.fields
            self.add_error(next((name for name in named if name in self.fields), None), conflict.sentence)


def _row_of(payload: dict[str, Any], model: Any, now: dict[str, Any]) -> dict[str, Any] | None:
    """What a revision says of a row that is like this now; None if it does not know it."""
    if model is Tuning:
        return payload.get("tuning")
    rows = payload.get("models" if model is ModelRecord else "workers", ())
    return next((row for row in rows if row["name"] == now["name"]), None)


def _values(row: Tuning | ModelRecord) -> dict[str, Any]:
    return {name: getattr(row, name) for name in row.PAYLOAD}


def _models() -> list[dict[str, Any]]:
    return list(ModelRecord.objects.order_by("name").values(*ModelRecord.PAYLOAD))
