"""The worker's API through Django; `/infer` is answered here only when the fast data plane leaves it to Django."""

from __future__ import annotations

from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from inference_site import lifecycle
from inference_site.api import InferView, JsonUnlessBrowser
from worker_app.stats import node_health

__all__ = ["HealthView", "InferView"]


class HealthView(APIView):
    """The worker's cache, batches, model and settings as they are now."""

    content_negotiation_class = JsonUnlessBrowser

    def get(self, request: Request) -> Response:
        """The worker's numbers."""
        return Response(node_health(lifecycle.service().plane.node))
