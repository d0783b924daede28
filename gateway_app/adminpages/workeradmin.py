"""The admin's page of workers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django import forms
from django.http import HttpRequest

from gateway_app.adminpages.operatedadmin import OperatedAdmin
from gateway_app.models import Worker

if TYPE_CHECKING:
    WorkerForm = forms.ModelForm[Worker]
else:  # takes no type parameter when the program runs
    WorkerForm = forms.ModelForm


class RowForm(WorkerForm):
    """A row of the list: each of its fields is named for those who do not see the table.

    What was not changed in it is not saved: somebody else may have changed that since the list was opened.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name, field in self.fields.items():
            field.widget.attrs["aria-label"] = f"{name} of {self.instance.name}"
            field.show_hidden_initial = not self.is_bound or self.add_initial_prefix(name) in self.data

    def _post_clean(self) -> None:
        for name in self.cleaned_data.keys() & self.initial.keys() - set(self.changed_data):
            self.cleaned_data[name] = self.initial[name]
        super()._post_clean()  # type: ignore[misc]


class WorkerAdmin(OperatedAdmin):
    """Where each one is, its share, and whether it is used; with the actions of those who operate them."""

    kind = "worker"
    list_display = ("name", "host", "port", "weight", "enabled", "draining", "isolated", "moment")
    list_editable = ("weight", "enabled", "draining", "isolated")
    search_fields = ("name", "host")
    fieldsets = (
        (None, {"fields": ("name", ("host", "port"))}),
        ("Share", {"fields": ("weight",)}),
        ("State", {"fields": ("enabled", "draining", "isolated")}),
    )

    def get_changelist_form(self, request: HttpRequest, **kwargs: Any) -> Any:
        return super().get_changelist_form(request, **{"form": RowForm, **kwargs})

    def save_model(self, request: HttpRequest, obj: Worker, form: Any, change: bool) -> None:
        # A name that somebody has typed is one: the handshake must not replace it.
        obj.named = obj.named or "name" in form.changed_data
        super().save_model(request, obj, form, change)
