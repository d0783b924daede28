"""What gateway and worker serve alike through Django: `/infer`, V2, liveness, readiness."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import orjson
from asgiref.sync import async_to_sync
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.templatetags.static import static
from django.views.decorators.csrf import csrf_exempt
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.parsers import FormParser, JSONParser, MultiPartParser
from rest_framework.renderers import BaseRenderer, BrowsableAPIRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from inference_site import lifecycle
from inference_site.coding import Unpacker, read_coding
from inference_site.exchange import Answer, Plane, Ticket, explain_refusal
from inference_site.heads import read_explain, read_timeout_ms
from inference_site.lib.errors import ApiError
from inference_site.lib.payload import request_id_of
from inference_site.serializers import InferRequestSerializer
from inference_site.v2.askers import refuse
from inference_site.v2.head import read_head
from inference_site.v2.rest import Rest

# Status, header lines and body.
Reply = tuple[int, bytes, bytes]
# Asks a plane, on its loop.
Ask = Callable[[Plane, Answer], Ticket | None]


class JsonUnlessBrowser(DefaultContentNegotiation):
    """JSON for every client but a browser: programs that send an odd `Accept`, or none, get their answer too."""

    def select_renderer(self, request: Request, renderers: Any, format_suffix: Any = None) -> tuple[BaseRenderer, str]:
        """The renderer and its media type."""
        wants_page = "text/html" in request.headers.get("Accept", "")
        for renderer in renderers:
            if isinstance(renderer, BrowsableAPIRenderer) == wants_page:
                return renderer, renderer.media_type
        return renderers[0], renderers[0].media_type


class InferView(APIView):
    """Post numbers, get the model's answer.

    The same code as on the fast data plane, reached through Django: slower, the same answers.
    """

    parser_classes = (JSONParser, FormParser, MultiPartParser)
    content_negotiation_class = JsonUnlessBrowser

    def get_serializer(self, *args: Any, **kwargs: Any) -> InferRequestSerializer:
        """For the form on the browsable page."""
        return InferRequestSerializer(*args, **kwargs)

    def post(self, request: Request) -> HttpResponse:
        """Runs an inference on the server's own loop."""
        status, lines, answer = _run(request)
        if isinstance(request.accepted_renderer, BrowsableAPIRenderer):
            headers = dict(line.split(": ", 1) for line in lines.decode().splitlines())
            page: HttpResponse = Response(orjson.loads(answer), status=status, headers=headers)
            return page
        return _response((status, lines, answer))


class LiveView(APIView):
    """The process runs."""

    content_negotiation_class = JsonUnlessBrowser

    def get(self, request: Request) -> Response:
        """200, always."""
        return Response({"live": True})


class ReadyView(APIView):
    """Whether traffic should be sent here; says no as soon as the process is told to stop."""

    content_negotiation_class = JsonUnlessBrowser

    def get(self, request: Request) -> Response:
        """200 or 503."""
        reason = lifecycle.service().not_ready()
        return Response({"ready": False, "reason": reason}, status=503) if reason else Response({"ready": True})


def favicon(request: HttpRequest) -> HttpResponse:
    """The icon for pages that name none: DRF's."""
    return redirect(static("inference/icon.svg"))


@csrf_exempt
def v2(request: HttpRequest) -> HttpResponse:
    """The Open Inference Protocol, by the same code as on the fast data plane; see inference_site.v2."""
    since = None
    try:
        asked = read_head(
            request.method or "",
            quote(request.path),
            {name.lower(): value for name, value in request.headers.items()},
            request.META.get("REMOTE_ADDR"),
        )
        since = _since(request) if asked.infers else None
        timeout_ms = _timeout_ms(request)
        body = sent_body(request)
    except ApiError as error:
        return _response(_refused(error, since=since))

    def serve(plane: Plane, answer: Answer) -> Ticket | None:
        return Rest(plane).serve(asked, [body], answer, timeout_ms, since)

    return _response(async_to_sync(_on_servers_loop)(serve, since))


def sent_body(request: HttpRequest) -> bytes:
    """The exact bytes that were sent, unpacked: they decide the owner and are part of the cache's key."""
    limit = settings.MAX_BODY_BYTES
    length = int(request.META.get("CONTENT_LENGTH") or 0)
    if length <= limit:
        body: bytes = request.body
        length = len(body)
    if length > limit:
        message = f"the body is {length} bytes, the limit is {limit} bytes; send less, or raise MAX_BODY_BYTES"
        raise ApiError(413, "body_too_large", message)
    coding = read_coding(request.headers.get("Content-Encoding", ""))
    if not coding:
        return body
    unpacked = Unpacker(coding, body, limit).unpack()
    assert unpacked is not None
    return unpacked


def _timeout_ms(request: HttpRequest) -> int | None:
    timeout = request.headers.get("X-Request-Timeout-Ms")
    return None if timeout is None else read_timeout_ms(timeout)


def _since(request: HttpRequest) -> float | None:
    """The moment that it is now, if the answer is to be explained."""
    return time.monotonic() if read_explain(request.headers.get("X-Explain", "0")) else None


def _body(request: Request) -> bytes:
    body = sent_body(request._request)
    # The page's own form; curl too calls what it sends a form unless told otherwise, but sends JSON.
    if "form" in (request.content_type or "") and body.lstrip()[:1] != b"{":
        form = InferRequestSerializer(data=request.data)
        try:
            if not form.is_valid():
                field, (problem, *_) = next(iter(form.errors.items()))
                code = f"missing_{field}" if problem.code == "required" else f"invalid_{field}"
                raise ApiError(400, code, f"{field}: {problem}")
            # What was left empty on the page was not meant to be sent.
            encoded: bytes = orjson.dumps({name: value for name, value in form.validated_data.items() if value != ""})
        except (RecursionError, TypeError, ValueError) as error:  # nested too deep, huge integers, lone surrogates
            message = f"input_data can't be read: {error}; send a flat list of numbers"
            raise ApiError(400, "invalid_input_data", message) from error
        return encoded
    return body


def _run(request: Request) -> Reply:
    since = None
    try:
        body = _body(request)
    except ApiError as error:
        return _refused(error, since=time.monotonic() if request.headers.get("X-Explain") == "1" else None)
    try:
        since = _since(request)
        timeout_ms = _timeout_ms(request)
    except ApiError as error:
        return _refused(error, request_id_of(body), since)

    def infer(plane: Plane, answer: Answer) -> Ticket | None:
        return plane.infer(body, answer, timeout_ms, since)

    # By this way a client that disconnects cancels what the view waits for: Django's handler is told of it, and cancels
    # the thread's task, which is this one.
    return async_to_sync(_on_servers_loop)(infer, since)


async def _on_servers_loop(ask: Ask, since: float | None) -> Reply:
    service = lifecycle.service()
    asked = asyncio.run_coroutine_threadsafe(_wait(service.plane, ask), service.loop)
    return _explained(await asyncio.wrap_future(asked), since)


async def _wait(plane: Plane, ask: Ask) -> Reply:
    answered: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()

    def answer(status: int, headers: bytes, body: bytes) -> None:
        if not answered.done():
            answered.set_result((status, headers, body))

    ticket = ask(plane, answer)
    try:
        return await answered
    except asyncio.CancelledError:
        if ticket is not None and answered.cancelled():  # else the answer came in the same turn of the loop
            ticket.cancel()
        raise


def _refused(error: ApiError, request_id: str | None = None, since: float | None = None) -> Reply:
    replies: list[Reply] = []
    refuse(lambda *reply: replies.append(reply), error, request_id)
    return _explained(replies[0], since)


def _explained(reply: Reply, since: float | None) -> Reply:
    if since is None:
        return reply
    status, headers, body = reply
    return status, explain_refusal(lifecycle.service().plane, status, headers, body, since), body


def _response(reply: Reply) -> HttpResponse:
    status, lines, body = reply
    headers = dict(line.split(": ", 1) for line in lines.decode().splitlines())
    headers.setdefault("content-type", "application/json")
    return HttpResponse(body, status=status, headers=headers)
