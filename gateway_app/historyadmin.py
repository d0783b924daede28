"""The admin's history of the configuration: who, when, what and why."""

from __future__ import annotations

from django.contrib import admin

from gateway_app.models import Revision
from gateway_app.recordedadmin import ReadOnlyAdmin


class RevisionAdmin(ReadOnlyAdmin):
    """What was configured, and by whom."""

    list_display = ("id", "created", "who", "summary")
    search_fields = ("author", "summary")
    fields = ("id", "created", "who", "summary", "payload")

    @admin.display(description="who", ordering="author")
    def who(self, revision: Revision) -> str:
        return revision.author or "command line"
