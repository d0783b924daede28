"""Django's and DRF's errors in the shape of this API."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from django.conf import settings
from django.core.exceptions import DisallowedHost, TooManyFieldsSent, TooManyFilesSent
from django.http import HttpRequest, HttpResponse
from django.views import csrf
from django.views.decorators.csrf import csrf_exempt
from rest_framework import exceptions
from rest_framework.response import Response
from rest_framework.views import exception_handler as drf_handler

from inference_site.lib.errors import ApiError, error_body

logger = logging.getLogger(__name__)


def exception_handler(error: Exception, context: dict[str, Any]) -> Response | None:
    """DRF: an exception that a view raised."""
    if isinstance(error, ApiError):
        headers = {} if error.retry_after_s is None else {"Retry-After": str(error.retry_after_s)}
        return Response({"error": error.message, "code": error.code}, status=error.status, headers=headers)
    response = drf_handler(error, context)
    if response is not None:
        path, method = context["request"].path, context["request"].method
        if isinstance(error, exceptions.MethodNotAllowed):
            message = _not_allowed(method, path, context["view"].allowed_methods)
        else:
            message = str(getattr(error, "detail", error))
        code = getattr(error, "default_code", "error")
        response.data = {"error": message, "code": code}
    return response


def not_found(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    """Django's handler404."""
    places = "/infer, /v2, /stats, /health" if settings.IS_GATEWAY else "/infer, /v2, /health"
    return _json(404, "not_found", f"there is nothing at {request.path}; see {places}")


def method_not_allowed(request: HttpRequest, allowed: str) -> HttpResponse:
    """In place of Django's empty 405; `allowed` as the Allow header has it."""
    response = _json(405, "method_not_allowed", _not_allowed(request.method, request.path, allowed.split(", ")))
    response.headers["Allow"] = allowed
    return response


@csrf_exempt
def upgrade_required(request: HttpRequest) -> HttpResponse:
    """At /live for who has not asked for a WebSocket."""
    response = _json(426, "upgrade_required", "/live is a WebSocket; GET /stats has the same figures")
    response.headers["Upgrade"] = "websocket"
    return response


def bad_request(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    """Django's handler400: what it found wrong with a request before, or while, a view read it."""
    if isinstance(exception, DisallowedHost):
        host = request.META.get("HTTP_HOST", "")[:100]
        code = "invalid_host"
        message = f"the Host header {host!r} is not allowed; use a name in ALLOWED_HOSTS, or add this one to it"
    elif isinstance(exception, TooManyFieldsSent | TooManyFilesSent):
        code = "too_many_fields"
        message = f"the form has over {settings.DATA_UPLOAD_MAX_NUMBER_FIELDS} fields; send JSON instead"
    else:
        code = "bad_request"
        message = f"the request can't be read: {exception or 'its form is wrong'}; send JSON as described in /infer"
    return _json(400, code, message)


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    """Django's CSRF_FAILURE_VIEW: its page for browsers, JSON for programs, which have no business with these paths."""
    if "text/html" in request.headers.get("Accept", ""):
        return csrf.csrf_failure(request, reason)
    message = (
        f"{request.method} is for forms at {request.path}: {reason.rstrip('.')}; requests of programs go to /infer"
    )
    return _json(403, "csrf_failed", message)


def server_error(request: HttpRequest) -> HttpResponse:
    """Django's handler500; the log has the traceback."""
    return _json(500, "internal_error", "a bug: the log of this process says more")


def _not_allowed(method: str | None, path: str, allowed: Sequence[str]) -> str:
    return f"{method} is not for {path}; use {' or '.join(allowed)}"


def _json(status: int, code: str, message: str) -> HttpResponse:
    body = error_body(message, code)
    # The middleware that says the length is passed over by what is refused before it.
    return HttpResponse(body, status=status, content_type="application/json", headers={"Content-Length": len(body)})
