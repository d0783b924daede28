"""Operators' actions in the admin's lists: chosen, confirmed on a page that states their effect, done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.safestring import SafeString
from django.views.decorators.http import require_POST

from gateway_app.adminpages.previewedadmin import PreviewedAdmin
from gateway_app.adminpages.recordedadmin import ZONE, ModelAdmin, moment_of
from gateway_app.operating.actions import ACTIONS, MAX_COMMENT, Action, ActionError, effects_of, perform_each

TEMPLATE = "admin/gateway_app/operate.html"


class OperatedAdmin(PreviewedAdmin):
    """Adds the actions of one kind of target to its list. Who may do them need not be allowed to edit."""

    kind: str

    @admin.display(description=f"changed ({ZONE})", ordering="changed")
    def moment(self, row: Any) -> SafeString:
        return moment_of(row.changed)

    @property
    def operations(self) -> dict[str, Action]:
        """By name."""
        return {name: action for name, action in ACTIONS.items() if action.kind == self.kind}

    def may_operate(self, request: HttpRequest) -> bool:
        """By the permission of these actions."""
        return all(request.user.has_perm(action.permission) for action in self.operations.values())

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return super().has_view_permission(request, obj) or self.may_operate(request)

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        found: dict[str, Any] = super().get_actions(request)
        if self.may_operate(request):
            for name, action in self.operations.items():
                found[name] = (_chosen(action), name, f"{action.label} …")
        return found

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(require_POST(self.operate_view))
        return [path("operate/", view, name=f"{self.opts.model_name}_operate"), *super().get_urls()]

    def changelist_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """Whoever has chosen an action is asked first: that changes nothing, so it holds up no change of others."""
        if request.method == "POST" and request.POST.get("action") in self.operations and "_save" not in request.POST:
            return ModelAdmin.changelist_view(self, request, *args, **kwargs)
        return super().changelist_view(request, *args, **kwargs)

    def operate_view(self, request: HttpRequest) -> HttpResponse:
        """Confirmed: does it. Otherwise asks first."""
        action = self.operations.get(request.POST.get("action", ""))
        targets = request.POST.getlist("target")
        if action is None or not targets or not self.may_operate(request):
            raise PermissionDenied
        if "confirmed" not in request.POST:
            return self.confirmation(request, action, targets)
        rows: list[Any] = []
        try:
            comment = request.POST.get("comment", "")
            done, idle = perform_each(action, targets, request.user.get_username(), comment, rows.append)
        except ActionError as error:
            self.message_user(request, f"{str(error)[:1].upper()}{str(error)[1:]}.", messages.ERROR)
        else:
            for row in rows:
                self.log_change(request, row, f"{action.label}, by hand.")
            self.message_user(request, f"Done: {'; '.join(done)}.")
            if idle:
                self.message_user(request, f"Nothing to do: {'; '.join(idle)}.", messages.WARNING)
        return HttpResponseRedirect(reverse(f"admin:gateway_app_{self.opts.model_name}_changelist"))

    def confirmation(self, request: HttpRequest, action: Action, targets: Sequence[str]) -> HttpResponse:
        """The page that states the effect, with a field for a comment."""
        try:
            effects = effects_of(action, targets)
        except ActionError as error:
            self.message_user(request, f"{str(error)[:1].upper()}{str(error)[1:]}.", messages.ERROR)
            return HttpResponseRedirect(reverse(f"admin:gateway_app_{self.opts.model_name}_changelist"))
        context = {
            **self.admin_site.each_context(request),
            "title": action.label,
            "opts": self.opts,
            "media": self.media,
            "action": action,
            "effects": effects,
            "targets": [target for target, effect, _ in effects if effect],
            "max_comment": MAX_COMMENT,
            "operate_url": reverse(f"admin:{self.opts.model_name}_operate"),
        }
        return TemplateResponse(request, TEMPLATE, context)


def _chosen(action: Action) -> Callable[[Any, HttpRequest, QuerySet[Any]], HttpResponse]:
    """What the list does with the rows that were chosen: it asks."""

    def ask(admin: OperatedAdmin, request: HttpRequest, rows: QuerySet[Any]) -> HttpResponse:
        return admin.confirmation(request, action, list(rows.values_list("name", flat=True)))

    return ask
