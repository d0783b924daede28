"""Pages of the admin that show what a change would do before it is made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.contrib import messages
from django.contrib.messages.storage import default_storage
from django.db import transaction
from django.http import HttpRequest, HttpResponse, QueryDict
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.functional import SimpleLazyObject
from django.utils.html import format_html

from gateway_app.adminpages.recordedadmin import RecordedAdmin, comment_of
from gateway_app.adminpages.savingform import FIELDSET, SAVING, RecordedForm, SavingForm
from gateway_app.core.vigil import Figures
from gateway_app.models import recorded
from gateway_app.operating import guards
from gateway_app.previewing.present import Present, present
from gateway_app.previewing.previews import preview
from gateway_app.revisions import Recording, payload_of_rows

PREVIEW = "admin/gateway_app/preview.html"
# Names of what was pressed, not of what was filled in.
_BUTTONS = ("_save", "_preview", "_edit", "_continue", "_addanother", "csrfmiddlewaretoken")


class PreviewedAdmin(RecordedAdmin):
    """What a page would change can be seen before; a saved change may have a comment and a guard."""

    form = RecordedForm

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        found = super().get_fieldsets(request, obj)
        may = self.has_change_permission(request, obj) if obj is not None else self.has_add_permission(request)
        return (*found, FIELDSET) if may else found

    def render_change_form(self, request: HttpRequest, context: Any, *args: Any, **kwargs: Any) -> HttpResponse:
        return super().render_change_form(request, {**context, "previewed": True}, *args, **kwargs)

    def get_changelist_formset(self, request: HttpRequest, **kwargs: Any) -> Any:
        class Formset(super().get_changelist_formset(request, **kwargs)):  # type: ignore[misc]
            """Shown again with what was typed, when coming back from the preview."""

            def is_valid(self) -> bool:
                return super().is_valid() and "_edit" not in self.data

            @property
            def errors(self) -> Any:  # which decides whether the page speaks of errors
                found = super().errors
                return found if any(found) else []

        return Formset

    def delete_view(self, request: HttpRequest, object_id: str, extra_context: Any = None) -> HttpResponse:
        if request.method != "POST" and (row := self.get_object(request, object_id)) is not None:
            before, after, _ = _tried(row.delete)
            extra_context = {**(extra_context or {}), "preview": preview(before, after)}
        return super().delete_view(request, object_id, extra_context)

    def response_action(self, request: HttpRequest, queryset: Any, *args: Any, **kwargs: Any) -> HttpResponse | None:
        response = super().response_action(request, queryset, *args, **kwargs)
        context = getattr(response, "context_data", None) or {}
        if "deletable_objects" in context:  # asks whether several rows are to be deleted
            before, after, _ = _tried(context["queryset"].delete)
            # Computed when the page is written: until then this request holds up whoever else would save something.
            context["preview"] = SimpleLazyObject(lambda: preview(before, after))
        return response

    def _recorded(
        self, view: Callable[..., HttpResponse], request: HttpRequest, *args: Any, **kwargs: Any
    ) -> HttpResponse:
        if request.method != "POST":
            return view(request, *args, **kwargs)
        saving = SavingForm(request.POST)
        if "_preview" in request.POST or not saving.is_valid():
            return self._preview(view, request, saving, *args, **kwargs)
        wish = saving.wish()
        now = present() if wish is not None else None
        with transaction.atomic():
            with recorded(author=request.user.get_username(), comment=comment_of(request)) as made:
                response = view(request, *args, **kwargs)
            if wish is not None and response.status_code == 302:
                self._guard(request, made, wish, now)
        return response

    def _guard(self, request: HttpRequest, made: Recording, wish: guards.Wish, now: Present | None) -> None:
        if made.revision is None or made.previous is None:
            self.message_user(request, "Nothing has changed, so there is nothing to take back.", messages.WARNING)
            return
        guard = guards.arm(made.revision.pk, made.previous.pk, wish, now.figures if now is not None else Figures())
        link = reverse("admin:gateway_app_revision_change", args=(made.revision.pk,))
        self.message_user(request, format_html('<a href="{}">{}</a>', link, guards.told_of(guard)))

    def _preview(
        self, view: Callable[..., HttpResponse], request: HttpRequest, saving: SavingForm, *args: Any, **kwargs: Any
    ) -> HttpResponse:
        """The page as if it had been saved: saved it is, and all of that taken back."""
        sent = request.POST.copy()
        post: Any = request
        post.POST, said = _pressed(sent, "_save"), post._messages
        post._messages = default_storage(request)  # nothing will have been done, so nothing is to be told
        response: HttpResponse
        before, after, response = _tried(lambda: view(request, *args, **kwargs))
        post._messages = said
        if response.status_code != 302:
            return response  # a form with errors, or a question
        context = {
            **self.admin_site.each_context(request),
            "title": "Preview",
            "opts": self.opts,
            "preview": preview(before, after),
            "saving": saving if saving.is_bound and not saving.is_valid() else _refilled(sent),
            "sent": [
                (name, value) for name, values in sent.lists() if name not in (*SAVING, *_BUTTONS) for value in values
            ],
            "may_edit": not sent.get("action"),
        }
        return TemplateResponse(request, PREVIEW, context)


def _tried(change: Callable[[], Any]) -> tuple[dict[str, Any], dict[str, Any], Any]:
    """The configuration before and after a change that is taken back at once, and what it returned."""
    with transaction.atomic():
        before = payload_of_rows()
        result = change()
        after = payload_of_rows()
        transaction.set_rollback(True)
    return before, after, result


def _pressed(sent: QueryDict, button: str) -> QueryDict:
    """What the page sends when that button is pressed instead."""
    found = sent.copy()
    for name in _BUTTONS[:-1]:
        found.pop(name, None)
    found[button] = "1"
    return found


def _refilled(sent: QueryDict) -> SavingForm:
    given = {name: sent.get(name, "") for name in SAVING if name in sent}
    return SavingForm(initial=given)
