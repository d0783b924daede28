"""The admin's history of the configuration: who, when, what and why; and the way back."""

from __future__ import annotations

import re
from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, register_converter, reverse
from django.urls.converters import IntConverter
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.views.decorators.http import require_POST

from gateway_app.adminpages.recordedadmin import ZONE, ReadOnlyAdmin, moment_of
from gateway_app.adminpages.savingform import SavingForm
from gateway_app.core.vigil import Figures
from gateway_app.models import Guard, Revision
from gateway_app.operating import guards
from gateway_app.operating.restore import RestoreRefused, payload_of, restore
from gateway_app.previewing.differences import Difference, differences
from gateway_app.previewing.present import present
from gateway_app.previewing.previews import preview
from gateway_app.revisions import completed, without_orders

CHANGELIST = "admin:gateway_app_revision_changelist"
RESTORE = "admin/gateway_app/revision/restore.html"


class Number(IntConverter):
    """In an address, what can be a row's number; no database is asked for a longer one."""

    regex = "[0-9]{1,18}"


register_converter(Number, "revision")


class RevisionAdmin(ReadOnlyAdmin):
    """What was configured, by whom and why; each revision can be compared and restored."""

    heading = "Revisions: what was configured, the newest first, and the way back"
    list_display = ("number", "moment", "who", "what", "comment", "guarded", "restoring")
    list_display_links = ("number",)
    search_fields = ("author", "summary", "comment")
    date_hierarchy = None
    ordering = ("-id",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Revision]:
        return super().get_queryset(request).select_related("guard").defer("payload")

    @admin.display(description="revision", ordering="id")
    def number(self, revision: Revision) -> int:
        return revision.pk

    @admin.display(description=f"saved ({ZONE})", ordering="id")
    def moment(self, revision: Revision) -> SafeString:
        return moment_of(revision.created)

    @admin.display(description="who", ordering="author")
    def who(self, revision: Revision) -> str:
        return revision.author or "command line"

    @admin.display(description="what changed")
    def what(self, revision: Revision) -> str:
        return revision.summary if len(revision.summary) <= 300 else f"{revision.summary[:300]}…"

    @admin.display(description="guard")
    def guarded(self, revision: Revision) -> str:
        guard = getattr(revision, "guard", None)
        return guard.state if guard is not None else ""

    @admin.display(description="back to it")
    def restoring(self, revision: Revision) -> SafeString:
        link = reverse("admin:revision_restore", args=(revision.pk,))
        return format_html('<a href="{}" aria-label="Restore revision {}">Restore</a>', link, revision.pk)

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view
        return [
            path("<revision:number>/restore/", view(self.restore_view), name="revision_restore"),
            path("<revision:number>/keep/", view(require_POST(self.keep_view)), name="guard_keep"),
            path("<revision:number>/revert/", view(require_POST(self.revert_view)), name="guard_revert"),
            *super().get_urls(),
        ]

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        """One revision: what it changed, and what is otherwise now."""
        if request.method == "POST" or not self.has_view_permission(request):
            raise PermissionDenied
        number = int(object_id) if re.fullmatch(Number.regex, object_id) else 0
        found = Revision.objects.select_related("guard").filter(pk=number).first()
        if found is None:
            return self._get_obj_does_not_exist_redirect(request, self.opts, object_id)  # type: ignore[no-any-return, attr-defined]
        before = Revision.objects.filter(pk__lt=found.pk).order_by("-id").first()
        newest = Revision.objects.order_by("-id").first() or found
        guard = getattr(found, "guard", None)
        context = {
            **self._context(request, f"Revision {found.pk}"),
            "revision": found,
            "who": self.who(found),
            "before": before,
            "changed": _differences(before, found),
            "newest": newest,
            "since": _differences(found, newest),
            "guard": guard,
            "guard_says": guards.told_of(guard) if guard is not None else "",
            "watching": guard is not None and guard.state == Guard.State.WATCHING,
            "may_change": self._may_tune(request),
            **(extra_context or {}),
        }
        return TemplateResponse(request, "admin/gateway_app/revision/revision.html", context)

    def restore_view(self, request: HttpRequest, number: int) -> HttpResponse:
        """What going back would change; with the button, it is done."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        newest = Revision.objects.order_by("-id").first()
        if newest is None or not Revision.objects.filter(pk=number).exists():
            raise Http404
        saving = SavingForm(request.POST or None)
        try:
            payload = payload_of(number)
            now = completed(newest.payload)
            lacking = _lacking(request, now, payload)
            if request.method == "POST":
                if lacking:
                    raise PermissionDenied
                if request.POST.get("newest") != str(newest.pk):
                    sentence = "The configuration has changed meanwhile: this page shows what would be changed now."
                    self.message_user(request, sentence, messages.WARNING)
                elif saving.is_valid():
                    return self._restored(request, number, newest, saving)
        except RestoreRefused as error:
            self.message_user(request, str(error), messages.ERROR)
            return HttpResponseRedirect(reverse("admin:gateway_app_revision_change", args=(number,)))
        context = {
            **self._context(request, f"Restore revision {number}"),
            "number": number,
            "newest": newest,
            "preview": preview(now, payload),
            "saving": saving,
            "lacking": lacking,
        }
        return TemplateResponse(request, RESTORE, context)

    def keep_view(self, request: HttpRequest, number: int) -> HttpResponse:
        """Ends a guard: the change stays."""
        if not self._may_tune(request):
            raise PermissionDenied
        kept = guards.keep(number, request.user.get_username())
        return self._told(request, number, f"Revision {number} stays, and is watched no more." if kept else "")

    def revert_view(self, request: HttpRequest, number: int) -> HttpResponse:
        """Takes a watched change back at once."""
        guard, newest = Guard.objects.filter(revision=number).first(), Revision.objects.order_by("-id").first()
        if guard is None or newest is None:
            raise Http404
        try:
            if _lacking(request, completed(newest.payload), payload_of(guard.back_to)):
                raise PermissionDenied
            done = guards.revert(number, f"revision {number} taken back by hand", request.user.get_username())
        except RestoreRefused as error:
            self.message_user(request, str(error), messages.ERROR)
            return self._told(request, number, "")
        return self._told(request, number, f"Revision {number} has been taken back." if done else "")

    def _restored(self, request: HttpRequest, number: int, newest: Revision, saving: SavingForm) -> HttpResponse:
        wish = saving.wish()
        now = present() if wish is not None else None
        with transaction.atomic():
            made = restore(number, request.user.get_username(), saving.cleaned_data["comment"], seen=newest.pk)
            if made is not None and wish is not None:
                guard = guards.arm(made.pk, newest.pk, wish, now.figures if now is not None else Figures())
                self.message_user(request, guards.told_of(guard))
        if made is None:
            self.message_user(request, f"Everything is as in revision {number} already.")
            return HttpResponseRedirect(reverse(CHANGELIST))
        undo = reverse("admin:revision_restore", args=(newest.pk,))
        done = "Revision {} is restored, as revision {}. <a href='{}'>Undo: restore revision {}</a>"
        self.message_user(request, format_html(done, number, made.pk, undo, newest.pk), messages.SUCCESS)
        return HttpResponseRedirect(reverse(CHANGELIST))

    def _told(self, request: HttpRequest, number: int, done: str) -> HttpResponse:
        self.message_user(
            request, done or "This guard watches no more.", messages.SUCCESS if done else messages.WARNING
        )
        return HttpResponseRedirect(reverse("admin:gateway_app_revision_change", args=(number,)))

    def _context(self, request: HttpRequest, title: str) -> dict[str, Any]:
        return {**self.admin_site.each_context(request), "title": title, "opts": self.opts}

    def _may_tune(self, request: HttpRequest) -> bool:
        user: Any = request.user
        return bool(user.has_perm("gateway_app.change_tuning"))


def _differences(before: Revision | None, after: Revision) -> list[Difference]:
    return differences(completed(before.payload) if before is not None else {}, completed(after.payload))


def _lacking(request: HttpRequest, before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Permissions that the user would need for this change by the forms, and has not."""
    before, after = without_orders(before), without_orders(after)
    needed: set[str] = set()
    for kind, name in (("workers", "worker"), ("models", "modelrecord")):
        old, new = ({row["name"]: row for row in payload.get(kind, ())} for payload in (before, after))
        needed |= {f"delete_{name}"} if old.keys() - new.keys() else set()
        needed |= {f"add_{name}"} if new.keys() - old.keys() else set()
        needed |= {f"change_{name}"} if any(old[each] != new[each] for each in old.keys() & new.keys()) else set()
    if before.get("tuning") != after.get("tuning") or before.get("canary") != after.get("canary") or not needed:
        needed.add("change_tuning")
    user: Any = request.user
    return sorted(each for each in needed if not user.has_perm(f"gateway_app.{each}"))
