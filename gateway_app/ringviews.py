"""Where inputs go: the ring as it is, and the way of one input, without running anything."""

from __future__ import annotations

import time
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import msgspec
import orjson
from django.http import HttpResponse
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from gateway_app.canaries.canarymodel import CanaryModel
from gateway_app.core.foresight import foresee
from gateway_app.core.table import Table
from gateway_app.figures.stats import on_loop
from gateway_app.figures.workerstats import key_shares
from inference_site.api import JsonUnlessBrowser, sent_body
from inference_site.lib.asks import key_of
from inference_site.lib.payload import decode_request

if TYPE_CHECKING:
    from gateway_app.gateway import Gateway
    from gateway_app.served import ServedModel

# Every so many slots of the table one is told: 1,024 of 65,536.
STEP = 64


class RingView(APIView):
    """Who owns which part of the keys."""

    content_negotiation_class = JsonUnlessBrowser
    renderer_classes = (JSONRenderer,)

    def get(self, request: Request) -> HttpResponse:
        """The owner of each 1,024th of the keys, in their order, as a number among `workers`."""
        table, revision = on_loop(lambda gateway: (gateway.table, gateway.snapshot.revision))
        return HttpResponse(_ring(table, revision), content_type="application/json")


class WhereView(APIView):
    """Where an input goes: its owner, who is next, and who would be asked now. Nothing is run."""

    content_negotiation_class = JsonUnlessBrowser
    renderer_classes = (JSONRenderer,)

    def post(self, request: Request) -> Response:
        """Takes what `POST /infer` takes; the request_id may be left out. Raises the same errors."""
        _, ask, name = decode_request(_identified(sent_body(request._request)))
        return Response(on_loop(lambda gateway: where(gateway, ask, name)))


def where(gateway: Gateway, ask: bytes, name: str | None) -> dict[str, Any]:
    """The way of an ask of the model of that name, or of the default one. Raises ApiError as an inference would."""
    model, key = _asked(gateway, ask, name)
    own_key = key_of(ask, model.inference.seed)  # a version that is tried is asked by the key of the one that answers
    owner, *successors = gateway.table.owners(key) or ("",)
    route, why = foresee(model.router, key, time.monotonic())
    inference = model.inference
    return {
        "model": model.name,
        "version": model.version,
        "key": f"{key:016x}",
        "slot": key >> 48,
        "owner": owner,
        "successors": successors,
        "now": route.name if route is not None else None,
        "why": why,
        "kept": inference.hot_on and inference.hot.keeps(own_key, ask),
    }


def _asked(gateway: Gateway, ask: bytes, name: str | None) -> tuple[ServedModel, int]:
    """The version that would answer, and the key by which it is found."""
    model = gateway.find(name, None)
    if not isinstance(model, CanaryModel):
        return model, key_of(ask, model.inference.seed)
    stable = model.stable
    key = key_of(ask, stable.inference.seed)
    if next(iter(gateway.table.owners(key)), None) == model.worker and model.takes:
        return model.canary, key
    return stable, key


def _identified(body: bytes) -> bytes:
    """The body with a request_id, which a person who only asks where an input goes has none of."""
    try:
        members = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return body  # what is wrong with it is said by who reads all requests
    return msgspec.json.encode({"request_id": "", **members}) if "request_id" not in members else body


@lru_cache(maxsize=1)
def _ring(table: Table, revision: int) -> bytes:
    """A table never changes."""
    return orjson.dumps(
        {
            "revision": revision,
            "virtual_nodes": table.virtual_nodes,
            "workers": table.nodes,
            "owners": table.firsts()[::STEP].tolist(),
            "shares": {name: round(share, 4) for name, share in key_shares(table).items()},
        }
    )
