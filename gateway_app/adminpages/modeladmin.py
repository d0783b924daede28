"""The admin's page of models: settings, what workers say of each, loading and unloading, new versions by upload."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern
from django.utils.html import format_html_join
from django.utils.safestring import SafeString, mark_safe

from gateway_app.adminpages.modelstates import ModelState, model_states
from gateway_app.adminpages.operatedadmin import OperatedAdmin
from gateway_app.adminpages.uploadviews import upload_urls
from gateway_app.models import ModelRecord


class ModelRecordAdmin(OperatedAdmin):
    """Rows are settings; models that are served without any are shown above them."""

    kind = "model"
    search_fields = ("name",)
    save_on_top = True
    fieldsets = (
        (None, {"fields": ("name", "loaded", "versions")}),
        ("/infer", {"fields": ("output", "pad_with_zeros"), "description": "What the plain form answers with."}),
        (
            "Batches",
            {
                "fields": ("batches", "batch_size", "batch_wait_ms", "sessions"),
                "description": "How many requests go through this model at once.",
            },
        ),
        (
            "Lengths that vary",
            {
                "fields": ("padding_dimension", "padding_buckets", "padding_mask", "padding_values"),
                "description": "Inputs of different lengths are filled up to the same, so that they form batches;"
                " outputs are cut back.",
            },
        ),
        ("Cache", {"fields": ("cached", "cache_entries"), "description": "Which results are remembered."}),
        (
            "Requests and start",
            {"fields": ("deadline_ms", "warm_up"), "description": "How long a request may take; what runs before it."},
        ),
    )

    def get_list_display(self, request: HttpRequest) -> Any:
        states = _by_name(model_states())

        @admin.display(description="versions", ordering="versions")
        def versions(row: ModelRecord) -> str:
            return row.versions or "newest"

        @admin.display(description="what workers say")
        def now(row: ModelRecord) -> str | SafeString:
            return _told(states.get(row.name, ())) or "No worker has it."

        return ("name", "loaded", versions, now, "moment")

    def changelist_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        context = {
            "served": self._served_without_row(),
            "may_operate": self.may_operate(request),
            **(kwargs.pop("extra_context", None) or {}),
        }
        return super().changelist_view(request, *args, extra_context=context, **kwargs)

    def get_urls(self) -> list[URLPattern]:
        return [*upload_urls(self), *super().get_urls()]

    def _served_without_row(self) -> list[tuple[str, SafeString]]:
        named = set(ModelRecord.objects.values_list("name", flat=True))
        return [(name, _told(states)) for name, states in _by_name(model_states()).items() if name not in named]


def _by_name(states: Iterable[ModelState]) -> dict[str, list[ModelState]]:
    found: dict[str, list[ModelState]] = {}
    for state in states:
        found.setdefault(state.name, []).append(state)
    return found


def _told(states: Iterable[ModelState]) -> SafeString:
    """A line for each version, and for each thing that workers say of it."""
    lines = (
        (
            f"version {each.version}: " if each.version else "",
            f"{each.state}: {each.reason}" if each.reason else each.state,
            ", ".join(each.workers),
        )
        for each in states
    )
    return format_html_join(mark_safe("<br>"), "{}{} ({})", lines)
