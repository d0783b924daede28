"""The admin's form of the tuning: one row, in groups, with what each value is for."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import messages
from django.core.exceptions import ValidationError
from django.db import transaction
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse

from gateway_app.adminpages.modelstates import model_states
from gateway_app.adminpages.previewedadmin import PreviewedAdmin
from gateway_app.adminpages.recordedadmin import comment_of
from gateway_app.adminpages.savingform import RecordedForm
from gateway_app.canaries import canary
from gateway_app.models import Tuning, Worker
from inference_site.lib.catalog import State


class TuningForm(RecordedForm):
    """What is changed can be tried on one worker before the others get it."""

    try_on = forms.ChoiceField(
        label="Try it on one worker first",
        required=False,
        help_text="A worker: it alone gets the new values, and the dashboard compares it with the others until this is"
        " promoted or aborted. For batches and caches; other settings are of all workers alike.",
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "try_on" in self.fields:  # not where it can only be read
            names = Worker.objects.filter(enabled=True).values_list("name", flat=True)
            choice: Any = self.fields["try_on"]
            choice.choices = [("", "no, all workers get it"), *((name, name) for name in names)]

    def tried(self) -> dict[str, Any]:
        """The values that one worker is to try, by field."""
        return {name: self.cleaned_data[name] for name in self.changed_data}

    def _refuse_conflicts(self) -> None:
        if not self.cleaned_data.get("try_on"):
            super()._refuse_conflicts()
            return
        try:
            with transaction.atomic():  # what could not be started is said here, while it can be put right
                canary.start(self.cleaned_data["try_on"], self.tried())
                transaction.set_rollback(True)
        except ValidationError as error:
            self.add_error("try_on", " ".join(error.messages))


class TuningAdmin(PreviewedAdmin):
    """The one row of settings: its list leads straight to its form."""

    form = TuningForm
    save_on_top = True
    fieldsets = (
        (
            "Ring",
            {
                "fields": ("virtual_nodes", "share_cap_percent"),
                "description": "How inputs are shared out among the workers.",
            },
        ),
        (
            "Load",
            {
                "fields": ("load_factor", "load_floor", "queue_ms", "hot_cache"),
                "description": "What keeps a much-asked input from drowning its owner, and a queue from growing.",
            },
        ),
        (
            "Breaker",
            {
                "fields": (
                    "failure_threshold",
                    "error_rate_percent",
                    "slow_factor",
                    "silence_ms",
                    "open_seconds",
                    "success_threshold",
                ),
                "description": "When a sick worker gets no more requests, and when it is tried again.",
            },
        ),
        (
            "Health",
            {
                "fields": ("check_seconds", "slow_start_seconds"),
                "description": "How workers are looked after that get no requests, or get them again.",
            },
        ),
        (
            "Cache",
            {
                "fields": ("cache_entries", "cache_mib", "hand_off"),
                "description": "What each worker remembers, and what becomes of it when inputs move.",
            },
        ),
        (
            "Batches",
            {
                "fields": ("batch_size", "batch_wait_ms", "batch_eager"),
                "description": "How many requests go through the model at once.",
            },
        ),
        (
            "Requests",
            {
                "fields": ("request_timeout_ms", "retry_percent", "hedging", "default_model"),
                "description": "How long a request may take, when a second worker is asked, and which model answers.",
            },
        ),
    )

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        found = super().get_fieldsets(request, obj)
        if not self.has_change_permission(request, obj):
            return found
        *others, (title, options) = found
        return (*others, (title, {**options, "fields": ("try_on", *options["fields"])}))

    def save_model(self, request: HttpRequest, obj: Tuning, form: Any, change: bool) -> None:
        if worker := form.cleaned_data.get("try_on"):
            done = canary.start(worker, form.tried(), request.user.get_username(), comment_of(request))
            self.message_user(request, done, messages.SUCCESS)
            return
        super().save_model(request, obj, form, change)
        served = sorted({state.name for state in model_states() if state.state == State.READY})
        if "default_model" in form.changed_data and obj.default_model and served and obj.default_model not in served:
            message = f"No worker serves {obj.default_model}, the model of /infer: load it, or name one of these: "
            self.message_user(request, f"{message}{', '.join(served)}.", messages.WARNING)

    def construct_change_message(self, request: HttpRequest, form: Any, formsets: Any, add: bool = False) -> Any:
        worker = form.cleaned_data.get("try_on")
        if worker:
            return f"Tried on {worker} first: {', '.join(form.changed_data)}."
        return super().construct_change_message(request, form, formsets, add)

    def response_change(self, request: HttpRequest, obj: Tuning) -> HttpResponse:
        if request.POST.get("try_on"):  # the tuning itself is as it was
            return HttpResponseRedirect(reverse("admin:gateway_app_tuning_change", args=(Tuning.ONLY,)))
        return super().response_change(request, obj)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def changelist_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        return HttpResponseRedirect(reverse("admin:gateway_app_tuning_change", args=(Tuning.ONLY,)))

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        if object_id == str(Tuning.ONLY):
            Tuning.objects.get_or_create(pk=Tuning.ONLY)
        return super().get_object(request, object_id, from_field)
