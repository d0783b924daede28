"""The worker's API through Django; `/infer` is answered here only when the fast data plane leaves it to Django."""

from __future__ import annotations

from django.http import HttpResponse
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from inference_site import lifecycle
from inference_site.api import InferView, JsonUnlessBrowser
from inference_site.lib.prometheus import CONTENT_TYPE
from worker_app.metrics import worker_metrics
from worker_app.stats import node_health

__all__ = ["HealthView", "InferView", "MetricsView"]


class HealthView(APIView):
    """The worker's cache, batches, model and settings as they are now."""

    content_negotiation_class = JsonUnlessBrowser

    def get(self, request: Request) -> Response:
        """The worker's numbers, taken where they change."""
        return Response(lifecycle.on_loop(lambda: node_health(lifecycle.service().plane.node)))


class MetricsView(APIView):
    """The same numbers for Prometheus."""

    content_negotiation_class = JsonUnlessBrowser
    renderer_classes = (JSONRenderer,)

    def get(self, request: Request) -> HttpResponse:
        """In its text format, whatever is accepted."""
        return HttpResponse(worker_metrics(), content_type=CONTENT_TYPE)
