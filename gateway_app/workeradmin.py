"""The admin's page of workers."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest

from gateway_app.models import Worker
from gateway_app.operatedadmin import OperatedAdmin


class WorkerAdmin(OperatedAdmin):
    """Where each one is, its share, and whether it is used; with the actions of those who operate them."""

    kind = "worker"
    list_display = ("name", "host", "port", "weight", "enabled", "draining", "isolated", "changed")
    list_editable = ("weight", "enabled", "draining", "isolated")
    search_fields = ("name", "host")
    fieldsets = (
        (None, {"fields": ("name", ("host", "port"))}),
        ("Share", {"fields": ("weight",)}),
        ("State", {"fields": ("enabled", "draining", "isolated")}),
    )

    def save_model(self, request: HttpRequest, obj: Worker, form: Any, change: bool) -> None:
        # A name that somebody has typed is one: the handshake must not replace it.
        obj.named = obj.named or "name" in form.changed_data
        super().save_model(request, obj, form, change)
