"""The admin's page of events: all that is kept, found by kind, worker, author and time; as quick with 100,000 rows."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.functional import cached_property
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString, mark_safe

from gateway_app.adminpages.recordedadmin import ZONE, ReadOnlyAdmin, moment_of
from gateway_app.models import Event, Worker

# Counting stops here, and so do the pages: what is older is found by a filter or a search.
MOST = 10_000
WITHIN = {
    "hour": (timedelta(hours=1), "Past hour"),
    "day": (timedelta(days=1), "Past day"),
    "week": (timedelta(days=7), "Past week"),
    "month": (timedelta(days=30), "Past 30 days"),
}

if TYPE_CHECKING:
    EventPaginator = Paginator[Event]
else:  # takes no type parameter when the program runs
    EventPaginator = Paginator


class Newest(EventPaginator):
    """Pages of the newest MOST rows, so that none of them takes a count of all."""

    @cached_property
    def count(self) -> int:
        """Of the rows that there are pages for."""
        rows: Any = self.object_list
        return int(rows.order_by()[:MOST].count())


class WorkerFilter(admin.SimpleListFilter):
    """By the workers that are configured: the events themselves are not looked through for names."""

    title = "worker"
    parameter_name = "worker"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Their names."""
        return [(name, name) for name in Worker.objects.order_by("name").values_list("name", flat=True)]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Event]) -> QuerySet[Event]:
        """Also by a name that is configured no more, if it is in the address."""
        return queryset.filter(worker=self.value()) if self.value() else queryset


class TimeFilter(admin.SimpleListFilter):
    """How long ago."""

    title = "time"
    parameter_name = "within"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Iterator[tuple[str, str]]:
        """Spans that end now."""
        return ((name, label) for name, (_, label) in WITHIN.items())

    def queryset(self, request: HttpRequest, queryset: QuerySet[Event]) -> QuerySet[Event]:
        """From so long ago on."""
        found = WITHIN.get(self.value() or "")
        return queryset.filter(at__gte=timezone.now() - found[0]) if found else queryset


class AuthorFilter(admin.SimpleListFilter):
    """What somebody did, apart from what happened."""

    title = "author"
    parameter_name = "by"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Names are found by the search."""
        return [("anybody", "Somebody did it"), ("me", "I did it"), ("nobody", "It happened")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Event]) -> QuerySet[Event]:
        """Operators' actions and changes of the configuration have an author."""
        if self.value() == "me":
            return queryset.filter(author=request.user.get_username())
        if self.value() == "anybody":
            return queryset.exclude(author="")
        return queryset.filter(author="") if self.value() == "nobody" else queryset


class EventAdmin(ReadOnlyAdmin):
    """What happened, as each gateway saw it, and what operators did."""

    heading = "Events: what happened, the newest first"
    list_display = ("moment", "kind", "subject", "told")
    list_filter = ("kind", WorkerFilter, TimeFilter, AuthorFilter)
    search_fields = ("reason", "author", "model", "gateway")
    sortable_by = ()
    show_facets = admin.ShowFacets.NEVER
    paginator = Newest

    @admin.display(description=f"at ({ZONE})")
    def moment(self, event: Event) -> SafeString:
        return moment_of(event.at)

    @admin.display(description="of")
    def subject(self, event: Event) -> SafeString:
        return format_html_join(mark_safe("<br>"), "{}", ((name,) for name in (event.worker, event.model) if name))

    @admin.display(description="what happened")
    def told(self, event: Event) -> SafeString:
        change = f"{event.before} → {event.after}" if event.before else event.after
        author = f"by {event.author}" if event.author else ""
        return format_html('<strong>{}</strong> {} <span class="quiet">{}</span>', change, event.reason, author)
