"""The gateway's page at `/`: every worker's breaker and load, every model's figures; once a second from `/stats`."""

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe


@never_cache
@require_safe
def dashboard(request: HttpRequest) -> HttpResponse:
    """The page with the current statistics inside it, so that the first paint needs no second request."""
    # Imported here: the statistics pull in the router and the links, which a worker process never loads.
    from gateway_app.stats import gateway_stats

    context = {
        "stats": gateway_stats(),
        "admin_url": reverse("admin:index"),
        "workers_admin_url": reverse("admin:gateway_app_worker_changelist"),
        "models_admin_url": reverse("admin:gateway_app_modelrecord_changelist"),
        "upload_url": reverse("admin:model_upload"),
        "events_admin_url": reverse("admin:gateway_app_event_changelist"),
        "add_worker_url": reverse("admin:gateway_app_worker_add"),
    }
    return render(request, "gateway/dashboard.html", context)
