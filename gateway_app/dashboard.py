"""The gateway's page at `/`: every worker's breaker and load, every model's figures; once a second from `/stats`."""

from urllib.parse import urlencode

from django.http import HttpRequest, HttpResponse
from django.middleware.csrf import get_token
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe


@never_cache
@require_safe
def dashboard(request: HttpRequest) -> HttpResponse:
    """The page with the current statistics inside it, so that the first paint needs no second request."""
    # Imported here: the statistics pull in the router and the links, which a worker process never loads.
    from gateway_app.figures.stats import gateway_stats

    context = {
        "stats": gateway_stats(),
        "admin_url": reverse("admin:index"),
        "workers_admin_url": reverse("admin:gateway_app_worker_changelist"),
        "models_admin_url": reverse("admin:gateway_app_modelrecord_changelist"),
        "upload_url": reverse("admin:model_upload"),
        "events_admin_url": reverse("admin:gateway_app_event_changelist"),
        "canary_admin_url": reverse("admin:gateway_app_canary_changelist"),
        "add_worker_url": reverse("admin:gateway_app_worker_add"),
        "user_facts": _rights(request),
    }
    return render(request, "gateway/dashboard.html", context)


def _rights(request: HttpRequest) -> dict[str, str | bool]:
    """Who looks at the page, and what they may do to workers and models; no query for who has not signed in."""
    user = request.user
    return {
        "name": user.get_username(),
        "can_operate_workers": user.has_perm("gateway_app.operate_worker"),
        "can_operate_models": user.has_perm("gateway_app.operate_modelrecord"),
        "csrf_token": get_token(request) if user.is_authenticated else "",  # asked for, it sets a cookie
        "login_url": f"{reverse('admin:login')}?{urlencode({'next': reverse('dashboard')})}",
    }
