"""The admin's form of the tuning: one row, in groups, with what each value is for."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse

from gateway_app.models import Tuning
from gateway_app.modelstates import model_states
from gateway_app.previewedadmin import PreviewedAdmin
from inference_site.lib.catalog import State


class TuningAdmin(PreviewedAdmin):
    """The one row of settings: its list leads straight to its form."""

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

    def save_model(self, request: HttpRequest, obj: Tuning, form: Any, change: bool) -> None:
        super().save_model(request, obj, form, change)
        served = sorted({state.name for state in model_states() if state.state == State.READY})
        if "default_model" in form.changed_data and obj.default_model and served and obj.default_model not in served:
            message = f"No worker serves {obj.default_model}, the model of /infer: load it, or name one of these: "
            self.message_user(request, f"{message}{', '.join(served)}.", messages.WARNING)

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
