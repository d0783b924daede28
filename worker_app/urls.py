"""What a worker serves."""

from django.urls import path

from inference_site.api import LiveView, ReadyView
from worker_app.dashboard import worker_page
from worker_app.views import HealthView, InferView, MetricsView

urlpatterns = [
    path("", worker_page, name="worker"),
    path("infer", InferView.as_view(), name="infer"),
    path("health", HealthView.as_view(), name="health"),
    path("metrics", MetricsView.as_view(), name="metrics"),
    path("livez", LiveView.as_view(), name="livez"),
    path("readyz", ReadyView.as_view(), name="readyz"),
]
