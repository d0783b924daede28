"""The admin's page of models: settings, what workers say of each, loading and unloading, new versions by upload."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied, ValidationError
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html_join
from django.utils.safestring import SafeString, mark_safe
from django.views.decorators.http import require_POST

from gateway_app.modelcontrol import order
from gateway_app.models import ModelRecord, recorded
from gateway_app.modelstates import ModelState, model_states
from gateway_app.previewedadmin import PreviewedAdmin
from gateway_app.uploadviews import upload_urls

CHANGELIST = "admin:gateway_app_modelrecord_changelist"


class ModelRecordAdmin(PreviewedAdmin):
    """Rows are settings; models that are served without any are shown above them."""

    search_fields = ("name",)
    actions = ("load", "unload")
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

        return ("name", "loaded", versions, now, "changed")

    def changelist_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        context = {"served": self._served_without_row(), **(kwargs.pop("extra_context", None) or {})}
        return super().changelist_view(request, *args, extra_context=context, **kwargs)

    def get_urls(self) -> list[URLPattern]:
        own = [path("order/", self.admin_site.admin_view(require_POST(self.order_view)), name="model_order")]
        return [*own, *upload_urls(self), *super().get_urls()]

    def order_view(self, request: HttpRequest) -> HttpResponse:
        """Loads or unloads a model that may have no row yet."""
        if not (self.has_add_permission(request) and self.has_change_permission(request)):
            raise PermissionDenied
        loaded = request.POST.get("action") == "load"
        try:
            with recorded(author=request.user.get_username()):
                row = order(request.POST.get("name", ""), loaded)
            self._log(request, row, loaded)
        except ValidationError as error:
            self.message_user(request, next(iter(error.message_dict.values()))[0], messages.ERROR)
        return HttpResponseRedirect(reverse(CHANGELIST))

    @admin.action(description="Load the selected models, with new versions and changed files", permissions=["change"])
    def load(self, request: HttpRequest, rows: QuerySet[ModelRecord]) -> None:
        for row in rows:
            self._log(request, order(row.name, True), True)

    @admin.action(description="Unload the selected models", permissions=["change"])
    def unload(self, request: HttpRequest, rows: QuerySet[ModelRecord]) -> None:
        for row in rows:
            self._log(request, order(row.name, False), False)

    def _log(self, request: HttpRequest, row: ModelRecord, loaded: bool) -> None:
        what = "load" if loaded else "unload"
        self.log_change(request, row, f"Ordered to {what} by hand.")
        self.message_user(request, f"Workers are told to {what} {row.name}; this list shows what they say.")

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
