"""What all pages of the admin share that change the configuration."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from gateway_app.adminpages.numberfields import form_class_of
from gateway_app.models import recorded

COMMENT_LENGTH = 1000
ZONE = settings.TIME_ZONE

if TYPE_CHECKING:
    ModelAdmin = admin.ModelAdmin[Any]
else:  # takes no type parameter when the program runs
    ModelAdmin = admin.ModelAdmin


class RecordedAdmin(ModelAdmin):
    """All that one submitted page changes becomes one revision, with the user's name and comment."""

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        return super().formfield_for_dbfield(db_field, request, **form_class_of(db_field), **kwargs)

    def changelist_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        return self._recorded(super().changelist_view, request, *args, **kwargs)

    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        return self._recorded(super().changeform_view, request, *args, **kwargs)

    def delete_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        return self._recorded(super().delete_view, request, *args, **kwargs)

    def _recorded(
        self, view: Callable[..., HttpResponse], request: HttpRequest, *args: Any, **kwargs: Any
    ) -> HttpResponse:
        if request.method != "POST":
            return view(request, *args, **kwargs)
        with recorded(author=request.user.get_username(), comment=comment_of(request)):
            return view(request, *args, **kwargs)


class ReadOnlyAdmin(ModelAdmin):
    """A history: to read. `heading` is what its list is called."""

    heading = ""
    list_per_page = 50
    show_full_result_count = False

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        return super().changelist_view(request, {"title": self.heading, **(extra_context or {})})

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


def moment_of(at: datetime) -> SafeString:
    """A time to the second, as logs have it; its column's title has the zone."""
    return format_html('<span class="nowrap">{}</span>', f"{timezone.localtime(at):%Y-%m-%d %H:%M:%S}")


def comment_of(request: HttpRequest) -> str:
    """Why, in the words of who sent this page; its end is cut off where a form would have refused it."""
    return request.POST.get("comment", "").replace("\0", "").strip()[:COMMENT_LENGTH]
