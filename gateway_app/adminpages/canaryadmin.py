"""The admin's page of the canary: have one worker try something, look how it does, promote or abort it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django import forms
from django.contrib import messages
from django.core.exceptions import PermissionDenied, ValidationError
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.decorators import method_decorator
from django.views.decorators.http import require_POST

from gateway_app.adminpages.modelstates import model_states
from gateway_app.adminpages.numberfields import form_class_of
from gateway_app.adminpages.recordedadmin import COMMENT_LENGTH, ReadOnlyAdmin, comment_of
from gateway_app.canaries import canary
from gateway_app.canaries.canarytext import tried
from gateway_app.models import Canary, Tuning, Worker
from inference_site.lifecycle import NotRunning

PERMISSION = "gateway_app.change_tuning"
PAGE = "admin:gateway_app_canary_changelist"
# What is done with a canary, what is asked first, and what its button says.
STEPS: dict[str, tuple[Callable[[str, str, Canary], str], str, str]] = {
    "promote": (
        canary.promote,
        "All workers get what it has tried. It is in force within a second, and no request is lost.",
        "Promote: all workers get it",
    ),
    "abort": (
        canary.abort,
        "It does again what all others do, within a second, and no request is lost.",
        "Abort: it does again what the others do",
    ),
}


class StartForm(forms.Form):
    """Who is to try what; settings come with the values that are in force, and what is not changed is not tried."""

    worker = forms.ChoiceField(help_text="Who tries it. All others go on as they are.")
    model = forms.CharField(
        label="model", required=False, max_length=100, help_text="Name of the model whose version is to be tried."
    )
    version = forms.CharField(
        label="version",
        required=False,
        max_length=20,
        help_text="Number of its folder in MODEL_REPOSITORY. The worker loads it beside the one that answers now, and"
        " answers its own inputs with it; the others keep the present one, which is listed in the model's settings.",
    )
    comment = forms.CharField(
        label="comment", required=False, max_length=COMMENT_LENGTH, help_text="Why; kept with the revision."
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.tuning, _ = Tuning.objects.get_or_create(pk=Tuning.ONLY)
        names = Worker.objects.filter(enabled=True).values_list("name", flat=True)
        self.fields["worker"].choices = [("", "---------"), *((name, name) for name in names)]  # type: ignore[attr-defined]
        self.fields["model"].widget = forms.TextInput({"list": "models", "class": "vTextField"})
        for name in canary.FIELDS:
            column: Any = Tuning._meta.get_field(name)
            self.fields[name] = column.formfield(**form_class_of(column))
            self.initial.setdefault(name, getattr(self.tuning, name))

    def start(self, author: str) -> str:
        """Has the worker try it. Raises ValidationError."""
        given = self.cleaned_data
        changed = {name: given[name] for name in canary.FIELDS if given[name] != getattr(self.tuning, name)}
        return canary.start(
            given["worker"], changed, author, given["comment"], model=given["model"], version=given["version"].strip()
        )

    @property
    def settings(self) -> list[forms.BoundField]:
        """The fields of the tuning."""
        return [self[name] for name in canary.FIELDS]

    @property
    def models(self) -> list[str]:
        """What workers have spoken of."""
        return sorted({state.name for state in model_states()})


class CanaryAdmin(ReadOnlyAdmin):
    """One page instead of a list and forms: there is one canary at most."""

    def has_module_permission(self, request: HttpRequest) -> bool:
        return self.has_view_permission(request)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return super().has_view_permission(request, obj) or request.user.has_perm(PERMISSION)

    def get_urls(self) -> list[URLPattern]:
        step = self.admin_site.admin_view(self.step_view)
        return [path("<slug:step>/", step, name="canary_step"), *super().get_urls()]

    def change_view(self, *args: Any, **kwargs: Any) -> HttpResponse:
        return HttpResponseRedirect(reverse(PAGE))

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        may_change = request.user.has_perm(PERMISSION)
        if request.method == "POST" and not may_change:
            raise PermissionDenied
        form = StartForm(request.POST if request.method == "POST" else None)
        if request.method == "POST" and form.is_valid():
            try:
                self.message_user(request, form.start(request.user.get_username()))
                return HttpResponseRedirect(reverse(PAGE))
            except ValidationError as error:
                form.add_error(None, error.messages[0])
        row = Canary.objects.first()
        context = {
            **self.admin_site.each_context(request),
            **(extra_context or {}),
            "opts": self.opts,
            "title": "Canary" if row is not None else "Try something on one worker first",
            "row": row,
            "tried": tried(_values(row)) if row is not None else "",
            "told": _told(),
            "form": form,
            "may_change": may_change,
        }
        return TemplateResponse(request, "admin/gateway_app/canary.html", context)

    @method_decorator(require_POST)
    def step_view(self, request: HttpRequest, step: str) -> HttpResponse:
        """Asks first; does it if the page says that it has asked."""
        if not request.user.has_perm(PERMISSION):
            raise PermissionDenied
        row = Canary.objects.first()
        if step not in STEPS or row is None:
            self.message_user(request, "No worker tries anything now.", messages.WARNING)
            return HttpResponseRedirect(reverse(PAGE))
        perform, effect, label = STEPS[step]
        confirmed = request.POST.get("confirmed") == "yes"
        if confirmed and request.POST.get("started") != row.started.isoformat():
            confirmed = False
            changed = f"What is tried has changed meanwhile: now {row.worker} tries {tried(_values(row))}."
            self.message_user(request, changed, messages.WARNING)
        if confirmed:
            try:
                self.message_user(request, perform(request.user.get_username(), comment_of(request), row))
            except ValidationError as error:
                self.message_user(request, error.messages[0], messages.ERROR)
            return HttpResponseRedirect(reverse(PAGE))
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": f"{step.capitalize()} what {row.worker} tries?",
            "row": row,
            "tried": tried(_values(row)),
            "told": _told(),
            "effect": effect,
            "label": label,
            "comment_length": COMMENT_LENGTH,
        }
        return TemplateResponse(request, "admin/gateway_app/canary_confirm.html", context)


def _values(row: Canary) -> dict[str, Any]:
    return {name: getattr(row, name) for name in Canary.PAYLOAD}


def _told() -> dict[str, Any] | None:
    """How it does, as this process's gateway has it; None where no gateway runs."""
    from gateway_app.canaries.canarycompare import compare  # what it builds on belongs to a running gateway
    from gateway_app.figures.stats import on_loop

    try:
        return on_loop(compare)
    except (NotRunning, TimeoutError):
        return None
