"""The gateway's API through Django; `/infer` is answered here only when the fast data plane leaves it to Django."""

from __future__ import annotations

import msgspec
from django.http import HttpResponse
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from gateway_app.figures.history import encoded
from gateway_app.figures.metrics import gateway_metrics
from gateway_app.figures.stats import gateway_health, gateway_stats, on_loop
from gateway_app.serializers import StatsSerializer
from inference_site import lifecycle
from inference_site.api import InferView, JsonUnlessBrowser
from inference_site.lib.prometheus import CONTENT_TYPE

__all__ = ["HealthView", "HistoryView", "InferView", "MetricsView", "StatsView", "TracesView"]

TRACES = 100


class StatsView(APIView):
    """Breakers, workers and totals as they are now."""

    content_negotiation_class = JsonUnlessBrowser

    def get(self, request: Request) -> Response:
        """The gateway's numbers."""
        return Response(StatsSerializer(gateway_stats()).data)


class MetricsView(APIView):
    """The same numbers for Prometheus."""

    content_negotiation_class = JsonUnlessBrowser
    renderer_classes = (JSONRenderer,)

    def get(self, request: Request) -> HttpResponse:
        """In its text format, whatever is accepted."""
        return HttpResponse(gateway_metrics(), content_type=CONTENT_TYPE)


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
        rate, newest = on_loop(lambda gateway: (gateway.traces.sampled_per_s, gateway.traces.newest(TRACES)))
        body = msgspec.json.encode({"sampled_per_s": rate, "traces": newest})
        return HttpResponse(body, content_type="application/json")


class HealthView(APIView):
    """200 while at least one worker can take a request, or has nothing to do as no model is wanted; else 503."""

    content_negotiation_class = JsonUnlessBrowser

    def get(self, request: Request) -> Response:
        """The gateway's state in one look."""
        health = gateway_health()
        return Response(health, status=200 if health["healthy"] else 503)
