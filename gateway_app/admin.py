"""The admin: where operators retune the running system; each save comes into force within a second."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone

from gateway_app.historyadmin import RevisionAdmin
from gateway_app.modeladmin import ModelRecordAdmin
from gateway_app.models import Event, ModelRecord, Revision, Tuning, Worker
from gateway_app.previewedadmin import PreviewedAdmin
from gateway_app.recordedadmin import ReadOnlyAdmin
from gateway_app.tuningadmin import TuningAdmin

admin.site.site_header = "Inference gateway"
admin.site.site_title = "Inference gateway"
admin.site.index_title = "Configuration"
admin.site.site_url = "/"
admin.site.register(ModelRecord, ModelRecordAdmin)
admin.site.register(Revision, RevisionAdmin)
admin.site.register(Tuning, TuningAdmin)


@admin.register(Worker)
class WorkerAdmin(PreviewedAdmin):
    list_display = ("name", "host", "port", "weight", "enabled", "draining", "isolated", "changed")
    list_editable = ("weight", "enabled", "draining", "isolated")
    search_fields = ("name", "host")
    actions = ("drain", "undrain", "isolate", "unisolate", "trip", "reset", "enable", "disable")
    fieldsets = (
        (None, {"fields": ("name", ("host", "port"))}),
        ("Share", {"fields": ("weight",)}),
        ("State", {"fields": ("enabled", "draining", "isolated")}),
    )

    def save_model(self, request: HttpRequest, obj: Worker, form: Any, change: bool) -> None:
        # A name that somebody has typed is one: the handshake must not replace it.
        obj.named = obj.named or "name" in form.changed_data
        super().save_model(request, obj, form, change)

    @admin.action(description="Drain: give nothing new to the selected workers", permissions=["change"])
    def drain(self, request: HttpRequest, workers: QuerySet[Worker]) -> None:
        self._set(request, workers, "draining", True, "draining")

    @admin.action(description="End draining of the selected workers", permissions=["change"])
    def undrain(self, request: HttpRequest, workers: QuerySet[Worker]) -> None:
        self._set(request, workers, "draining", False, "taking requests again")

    @admin.action(description="Enable the selected workers", permissions=["change"])
    def enable(self, request: HttpRequest, workers: QuerySet[Worker]) -> None:
        self._set(request, workers, "enabled", True, "enabled")

    @admin.action(description="Disable the selected workers", permissions=["change"])
    def disable(self, request: HttpRequest, workers: QuerySet[Worker]) -> None:
        self._set(request, workers, "enabled", False, "disabled")

    @admin.action(description="Isolate: no request at all to the selected workers", permissions=["change"])
    def isolate(self, request: HttpRequest, workers: QuerySet[Worker]) -> None:
        self._set(request, workers, "isolated", True, "isolated")

    @admin.action(description="End isolation of the selected workers", permissions=["change"])
    def unisolate(self, request: HttpRequest, workers: QuerySet[Worker]) -> None:
        self._set(request, workers, "isolated", False, "no longer isolated")

    @admin.action(description="Trip the breaker of the selected workers", permissions=["change"])
    def trip(self, request: HttpRequest, workers: QuerySet[Worker]) -> None:
        self._order(request, workers, "trip", "tripped")

    @admin.action(description="Reset the breaker of the selected workers", permissions=["change"])
    def reset(self, request: HttpRequest, workers: QuerySet[Worker]) -> None:
        self._order(request, workers, "reset", "reset")

    def _order(self, request: HttpRequest, workers: QuerySet[Worker], order: str, done: str) -> None:
        """Every gateway carries it out once, when it sees the new number."""
        ordered = [worker for worker in workers if worker.enabled]
        for worker in ordered:
            worker.order, worker.order_number = order, worker.order_number + 1
            worker.save()
            self.log_change(request, worker, f"Breaker {done} by hand.")
        if ordered:
            self.message_user(request, f"Breaker {done}: {', '.join(worker.name for worker in ordered)}.")
        if without := ", ".join(worker.name for worker in workers if not worker.enabled):
            self.message_user(request, f"Disabled, so without a breaker: {without}.", messages.WARNING)

    def _set(self, request: HttpRequest, workers: QuerySet[Worker], field: str, value: bool, done: str) -> None:
        changed = [worker for worker in workers if getattr(worker, field) != value]
        for worker in changed:
            setattr(worker, field, value)
            worker.save()
            self.log_change(request, worker, [{"changed": {"fields": [field]}}])
        names = ", ".join(worker.name for worker in changed)
        self.message_user(
            request, f"Now {done}: {names}." if changed else "Nothing to change: they all were so already."
        )


@admin.register(Event)
class EventAdmin(ReadOnlyAdmin):
    """What happened to breakers, as each gateway saw it."""

    list_display = ("moment", "worker", "before", "after", "reason", "gateway")
    list_filter = ("worker", "at")
    search_fields = ("reason", "gateway")

    @admin.display(description="at", ordering="at")
    def moment(self, event: Event) -> str:
        return f"{timezone.localtime(event.at):%Y-%m-%d %H:%M:%S}"  # several may be of one minute
