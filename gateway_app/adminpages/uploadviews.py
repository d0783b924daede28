"""Pages to add a version of a model by upload: the file in parts, what the model doctor says, and one button."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from django import forms
from django.conf import settings
from django.contrib import messages
from django.core.exceptions import PermissionDenied, ValidationError
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.views.decorators.http import require_http_methods, require_POST

from gateway_app.adminpages.examination import Report, begin_examination, is_under_way, read_report
from gateway_app.adminpages.uploads import GONE, Upload, UploadError, begin, find
from gateway_app.modelcontrol import order
from gateway_app.modelrecord import ModelRecord
from gateway_app.models import recorded
from gateway_app.validators import validate_model_name
from inference_site.lib.record import Record
from worker_app.record import RecordError, load_record

if TYPE_CHECKING:
    from gateway_app.adminpages.modeladmin import ModelRecordAdmin

# A body beyond MAX_BODY_BYTES is refused before any page sees it.
PART_BYTES = 8 * 2**20
CHUNK_BYTES = 2**20


class UploadForm(forms.Form):
    """A file, or the size of one that follows in parts."""

    name = forms.CharField(
        label="Model",
        max_length=100,
        validators=[validate_model_name],
        help_text="A new name, or that of a model in the repository: then this is its next version.",
    )
    file = forms.FileField(label="File", required=False, help_text="An .onnx file that holds all of its weights.")
    size = forms.IntegerField(required=False, min_value=1, widget=forms.HiddenInput)

    def clean(self) -> dict[str, Any]:
        """Either the file or the size is there."""
        cleaned = super().clean() or {}
        if not self.errors and not (cleaned.get("file") or cleaned.get("size")):
            raise ValidationError({"file": "Choose an .onnx file."})
        return cleaned


def upload_urls(admin: ModelRecordAdmin) -> list[URLPattern]:
    """The pages' addresses below the list of models."""
    views = UploadViews(admin)
    wrap = admin.admin_site.admin_view
    return [
        path("upload/", wrap(require_http_methods(["GET", "POST"])(views.form)), name="model_upload"),
        path("upload/<slug:token>/", wrap(require_http_methods(["GET", "POST"])(views.show)), name="model_uploaded"),
        path("upload/<slug:token>/part/", wrap(require_POST(views.part)), name="model_upload_part"),
    ]


class UploadViews:
    """Each for users who may add and change models."""

    def __init__(self, admin: ModelRecordAdmin) -> None:
        self._admin = admin

    def form(self, request: HttpRequest) -> HttpResponse:
        """The form; what it sends may be the whole file, or the size of one whose parts come next, from a script."""
        repository = self._repository(request)
        form = UploadForm(request.POST or None, request.FILES or None, initial={"name": request.GET.get("name", "")})
        in_parts = request.POST.get("size")
        if repository is not None and request.method == "POST" and form.is_valid():
            file, size = form.cleaned_data["file"], form.cleaned_data["size"]
            try:
                upload = begin(
                    repository, form.cleaned_data["name"], file.size if file else size, settings.MAX_MODEL_MIB
                )
                if not file:
                    return JsonResponse({"part_url": _address("model_upload_part", upload)})
                upload.append(0, file.chunks(CHUNK_BYTES))
                begin_examination(upload)
                return HttpResponseRedirect(_address("model_uploaded", upload))
            except UploadError as error:
                form.add_error("file", str(error))
        if in_parts and repository is None:
            return _refusal("There is no folder to store models in. Set MODEL_REPOSITORY.")
        if in_parts:
            return _refusal(" ".join(str(sentence) for each in form.errors.values() for sentence in each))
        context = {
            "form": form,
            "repository": repository,
            "limit_mib": settings.MAX_MODEL_MIB,
            "part_bytes": min(PART_BYTES, settings.MAX_BODY_BYTES),
            "whole_mib": settings.MAX_BODY_BYTES / 2**20,
        }
        return self._page(request, "upload_form.html", "Add a version by upload", context)

    def part(self, request: HttpRequest, token: str) -> HttpResponse:
        """The bytes from `offset` on; the answer says how many have come, and where to go once it is all."""
        upload = self._find(request, token)
        offset = request.GET.get("offset", "")
        with _gone_is_not_found():
            try:
                upload.append(int(offset) if offset.isdecimal() else 0, _body(request))
            except UploadError as error:
                return _refusal(str(error), received=upload.received)
            received = upload.received
            if received < upload.size_bytes:
                return JsonResponse({"received": received})
            begin_examination(upload)
            return JsonResponse({"received": received, "url": _address("model_uploaded", upload)})

    def show(self, request: HttpRequest, token: str) -> HttpResponse:
        """What the doctor says of it, with a button that applies what it proposes and loads the model."""
        upload = self._find(request, token)
        with _gone_is_not_found():
            received = upload.received
            looking = is_under_way(upload)  # asked first: what ends in between has left its report
            report = read_report(upload)
            if request.method == "POST":
                return self._decide(request, upload, report)
        context = {
            "upload": upload,
            "received": received,
            "whole": received == upload.size_bytes,
            "shadowed": is_of_model_path(upload.name),
            "report": report,
            "inputs": _shown_tensors(report, "inputs"),
            "outputs": _shown_tensors(report, "outputs"),
            "proposed": [] if report is None else proposed_settings(report),
            "looking": looking and report is None,
        }
        return self._page(request, "upload.html", f"New version of {upload.name}", context)

    def _decide(self, request: HttpRequest, upload: Upload, report: Report | None) -> HttpResponse:
        here = HttpResponseRedirect(_address("model_uploaded", upload))
        there = HttpResponseRedirect(reverse("admin:gateway_app_modelrecord_changelist"))
        action = request.POST.get("action")
        if action == "examine" and upload.whole and not is_under_way(upload):
            begin_examination(upload)
            return here
        if action == "discard":
            upload.discard()
            messages.info(request, f"The uploaded file of {upload.name} is gone; nothing has changed.")
            return there
        if action != "apply" or report is None or not report.ok:
            messages.error(request, "Nothing is applied: the model doctor has not said that this file can be served.")
            return here
        try:
            # Before anything is moved: with the database away, or these settings refused, all stays as it is.
            with recorded(author=request.user.get_username(), note="upload"):
                ModelRecord(name=upload.name).take(report.proposed).clean_fields()
                version = upload.publish()
                row = order(upload.name, True, report.proposed, version)
        except ValidationError as error:
            field, sentences = next(iter(error.message_dict.items()))
            messages.error(request, f"The proposed settings cannot be applied: {field}: {sentences[0]}")
            return here
        except UploadError as error:
            messages.error(request, str(error))
            return here if upload.file.exists() else there
        self._admin.log_change(request, row, f"Version {version} uploaded.")
        messages.success(request, f"Version {version} of {row.name} is stored; this list shows how workers load it.")
        return there

    def _repository(self, request: HttpRequest) -> Path | None:
        if not (self._admin.has_add_permission(request) and self._admin.has_change_permission(request)):
            raise PermissionDenied
        repository: Path | None = settings.MODEL_REPOSITORY
        return repository

    def _find(self, request: HttpRequest, token: str) -> Upload:
        repository = self._repository(request)
        upload = find(repository, token) if repository is not None else None
        if upload is None:
            raise Http404(GONE)
        return upload

    def _page(self, request: HttpRequest, template: str, title: str, context: dict[str, Any]) -> HttpResponse:
        shown = {**self._admin.admin_site.each_context(request), "opts": ModelRecord._meta, "title": title, **context}
        return TemplateResponse(request, f"admin/gateway_app/modelrecord/{template}", shown)


@contextmanager
def _gone_is_not_found() -> Iterator[None]:
    """Somebody else may store or discard an upload at any moment."""
    try:
        yield
    except FileNotFoundError:
        raise Http404(GONE) from None


def is_of_model_path(name: str) -> bool:
    """Whether MODEL_PATH has a model of this name, which comes before one in the repository.

    As far as this process knows: workers on other machines may have another MODEL_PATH.
    """
    model: Path | None = settings.MODEL_PATH
    if model is None:
        return False
    try:
        return load_record(model).name == name
    except RecordError:
        return model.stem == name


def proposed_settings(report: Report) -> list[tuple[str, str, str]]:
    """Title, value and reason of each setting that the doctor proposes."""
    shown = []
    plain = ModelRecord().take(Record())
    row = ModelRecord().take(report.proposed)
    for name in ModelRecord.PAYLOAD:
        value = getattr(row, name)
        if value == getattr(plain, name):
            continue
        field = ModelRecord._meta.get_field(name)
        word = {True: "yes", False: "no"}.get(value, value) if isinstance(value, bool) else value
        reason = report.reasons.get(name) or report.reasons.get(name.split("_")[0], "")
        shown.append((str(getattr(field, "verbose_name", name)), str(word), reason))
    return shown


def _shown_tensors(report: Report | None, kind: str) -> list[dict[str, Any]]:
    """Inputs or outputs with the names of the sizes that vary, which `length that varies` asks for."""
    found = []
    for each in report.told.get(kind, ()) if report is not None else ():
        symbols = each.get("symbols") or [""] * len(each["shape"])
        dims = [symbol or "any" if size < 0 else size for size, symbol in zip(each["shape"], symbols, strict=False)]
        found.append({**each, "dims": dims})
    return found


def _address(name: str, upload: Upload) -> str:
    return reverse(f"admin:{name}", args=(upload.token,))


def _body(request: HttpRequest) -> Iterator[bytes]:
    while part := request.read(CHUNK_BYTES):
        yield part


def _refusal(sentence: str, **more: Any) -> JsonResponse:
    return JsonResponse({"error": sentence, "code": "upload_refused", **more}, status=409 if more else 400)
