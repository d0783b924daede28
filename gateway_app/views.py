"""The gateway's API through Django; `/infer` is answered here only when the fast data plane leaves it to Django."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson
from django.http import HttpResponse
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from gateway_app.history import encoded
from gateway_app.serializers import StatsSerializer
from gateway_app.stats import gateway_health, gateway_stats, on_loop
from inference_site import lifecycle
from inference_site.api import InferView, JsonUnlessBrowser

if TYPE_CHECKING:
    from gateway_app.gateway import Gateway

__all__ = ["HealthView", "HistoryView", "InferView", "StatsView", "TracesView"]

TRACES = 100


class StatsView(APIView):
    """Breakers, workers and totals as they are now."""

    content_negotiation_class = JsonUnlessBrowser

    def get(self, request: Request) -> Response:
        """The gateway's numbers."""
        return Response(StatsSerializer(gateway_stats()).data)


class HistoryView(APIView):
    """The last two minutes, second by second."""

    content_negotiation_class = JsonUnlessBrowser
    renderer_classes = (JSONRenderer,)

    def get(self, request: Request) -> HttpResponse:
        """Points as in /stats, oldest first."""
        return HttpResponse(encoded(lifecycle.service().gateway.history), content_type="application/json")


class TracesView(APIView):
    """What became of single requests: a sample, and those that were explained, have failed or took very long."""

    content_negotiation_class = JsonUnlessBrowser
    renderer_classes = (JSONRenderer,)

    def get(self, request: Request) -> HttpResponse:
        """The newest 100, newest first."""
        return HttpResponse(on_loop(_traces), content_type="application/json")


class HealthView(APIView):
    """200 while at least one worker can take a request, or has nothing to do as no model is wanted; else 503."""

    content_negotiation_class = JsonUnlessBrowser

    def get(self, request: Request) -> Response:
        """The gateway's state in one look."""
        health = gateway_health()
        return Response(health, status=200 if health["healthy"] else 503)


def _traces(gateway: Gateway) -> bytes:
    log = gateway.traces
    return orjson.dumps({"sampled_per_s": log.sampled_per_s, "traces": log.recent()[:TRACES]})
