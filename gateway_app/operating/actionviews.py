"""Operators' actions over HTTP: for the page, by its session, and for programs, by a token."""

from __future__ import annotations

import logging
from math import ceil
from typing import Any

import msgspec
from django.db import Error as DatabaseUnavailable
from rest_framework import exceptions
from rest_framework.authentication import SessionAuthentication, TokenAuthentication
from rest_framework.parsers import BaseParser
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.throttling import UserRateThrottle
from rest_framework.views import APIView

from gateway_app.databaseaway import does_not_answer
from gateway_app.operating.actions import (
    ACTIONS,
    Action,
    ActionError,
    BadRequest,
    NothingToDo,
    UnknownTarget,
    effect,
    perform,
)
from inference_site.api import JsonUnlessBrowser
from inference_site.lib.errors import ApiError

logger = logging.getLogger(__name__)

MAX_BYTES = 16 * 1024
STATUS = {
    UnknownTarget: (404, "unknown_target"),
    NothingToDo: (409, "nothing_to_do"),
    BadRequest: (400, "invalid_body"),
}


class Unauthenticated(exceptions.NotAuthenticated):
    """Nobody is signed in, and no good token was sent."""

    default_code = "unauthenticated"
    default_detail = (
        "nobody is signed in: sign in at /admin/, or send the header Authorization: Token KEY, with a key that"
        " `manage.py drf_create_token USER` has made"
    )


class CsrfFailed(exceptions.PermissionDenied):
    """A signed-in browser's request that may have come from another site."""

    default_code = "csrf_failed"


class Tokens(TokenAuthentication):
    """As DRF's, with this API's errors."""

    def authenticate(self, request: Request) -> Any:
        try:
            return super().authenticate(request)
        except exceptions.AuthenticationFailed as error:
            raise Unauthenticated(f"{str(error.detail).rstrip('.')}; {Unauthenticated.default_detail}") from None


class Sessions(SessionAuthentication):
    """As DRF's, with this API's errors."""

    def enforce_csrf(self, request: Request) -> None:
        try:
            super().enforce_csrf(request)
        except exceptions.PermissionDenied as error:
            why = str(error.detail).removeprefix("CSRF Failed: ").rstrip(".")
            raise CsrfFailed(f"{why}; send the page's CSRF token in the header X-CSRFToken") from None


class ActionRate(UserRateThrottle):
    """Each action is a revision that all gateways follow: a program that is out of hand must not fill the history."""

    rate = "120/min"

    def allow_request(self, request: Request, view: APIView) -> bool:
        """Only what changes something counts."""
        return request.method != "POST" or bool(super().allow_request(request, view))


class Unread(BaseParser):
    """The view reads the body itself, whatever its Content-Type; nothing in it is a form."""

    media_type = "*/*"

    def parse(self, stream: Any, media_type: str | None = None, parser_context: Any = None) -> dict[str, Any]:
        """Nothing."""
        return {}


class Order(msgspec.Struct, forbid_unknown_fields=True):
    """What a POST asks for."""

    target: str
    comment: str = ""


_decode = msgspec.json.Decoder(Order).decode


class ActionView(APIView):
    """GET says what an action would do, POST does it."""

    authentication_classes = (Tokens, Sessions)
    parser_classes = (Unread,)
    renderer_classes = (JSONRenderer,)
    throttle_classes = (ActionRate,)
    content_negotiation_class = JsonUnlessBrowser
    http_method_names = ("get", "head", "post")

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """The body before all else: whoever looks for a form in it would use it up."""
        length = request.META.get("CONTENT_LENGTH") or ""
        if (length.isdecimal() and int(length) > MAX_BYTES) or len(request._request.body) > MAX_BYTES:
            raise ApiError(413, "body_too_large", f"the body is over {MAX_BYTES} bytes; write a shorter comment")
        super().initial(request, *args, **kwargs)

    def handle_exception(self, exc: Exception) -> Response:
        """A database that is away is no bug."""
        if isinstance(exc, DatabaseUnavailable):
            message = does_not_answer(exc, ", where users and orders are kept")
            exc = ApiError(503, "database_away", message, retry_after_s=5)
        return super().handle_exception(exc)

    def throttled(self, request: Request, wait: float) -> None:
        """Raises the API's own error."""
        message = f"this user has done over {ActionRate.rate.partition('/')[0]} actions within a minute; wait a moment"
        raise ApiError(429, "too_many_actions", message, retry_after_s=max(1, ceil(wait or 1)))

    def get(self, request: Request, name: str) -> Response:
        """The effect in a sentence, and whether this user may do it."""
        action = _find(name)
        user = _user(request)
        target = request.query_params.get("target", "")
        try:
            sentence, why_not = effect(action, target), ""
        except NothingToDo as error:
            sentence, why_not = "", str(error)
        except ActionError as error:
            raise _as_api_error(error) from None
        if not user.has_perm(action.permission):
            why_not = _not_permitted(user, action)
        answer = {"action": action.name, "label": action.label, "target": target, "effect": sentence}
        return Response({**answer, "allowed": not why_not, "why_not": why_not})

    def post(self, request: Request, name: str) -> Response:
        """Does it."""
        action = _find(name)
        user = _user(request)
        if not user.has_perm(action.permission):
            raise ApiError(403, "forbidden", _not_permitted(user, action))
        order = _read(request._request.body)
        try:
            done = perform(action, order.target, user.get_username(), order.comment)
        except ActionError as error:
            raise _as_api_error(error) from None
        logger.info("%s by %s: %s", action.name, user.get_username(), done)
        return Response({"done": done})


def _find(name: str) -> Action:
    action = ACTIONS.get(name)
    if action is None:
        message = f"there is no action {name[:100]!r}; there are {', '.join(ACTIONS)}"
        raise ApiError(404, "unknown_action", message)
    return action


def _user(request: Request) -> Any:
    if request.user is None:
        raise Unauthenticated
    return request.user


def _not_permitted(user: Any, action: Action) -> str:
    return f"{user.get_username()} lacks the permission {action.permission}; an administrator gives it under Users"


def _read(body: bytes) -> Order:
    how = 'send {"target": "worker_1", "comment": "why"}'
    try:
        return _decode(body)
    except msgspec.ValidationError as error:
        raise ApiError(400, "invalid_body", f"{error}; {how}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ApiError(400, "invalid_json", f"the body is no JSON ({error}); {how}") from None


def _as_api_error(error: ActionError) -> ApiError:
    status, code = STATUS[type(error)]
    return ApiError(status, code, str(error))
