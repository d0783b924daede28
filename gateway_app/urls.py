"""What a gateway serves besides the admin."""

from django.urls import path

from gateway_app.dashboard import dashboard
from gateway_app.operating.actionviews import ActionView
from gateway_app.ringviews import RingView, WhereView
from gateway_app.views import HealthView, HistoryView, InferView, MetricsView, StatsView, TracesView
from inference_site.api import LiveView, ReadyView
from inference_site.apierrors import upgrade_required

urlpatterns = [
    path("", dashboard, name="dashboard"),
    path("infer", InferView.as_view(), name="infer"),
    path("stats", StatsView.as_view(), name="stats"),
    path("metrics", MetricsView.as_view(), name="metrics"),
    path("history", HistoryView.as_view(), name="history"),
    path("traces", TracesView.as_view(), name="traces"),
    path("ring", RingView.as_view(), name="ring"),
    path("where", WhereView.as_view(), name="where"),
    path("health", HealthView.as_view(), name="health"),
    path("actions/<str:name>", ActionView.as_view(), name="action"),
    path("live", upgrade_required, name="live"),
    path("livez", LiveView.as_view(), name="livez"),
    path("readyz", ReadyView.as_view(), name="readyz"),
]
