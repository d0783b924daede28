"""A worker's own page at `/`: its model, cache and batches, refreshed once a second from its `/health`."""

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe


@never_cache
@require_safe
def worker_page(request: HttpRequest) -> HttpResponse:
    """The page holds no figures of its own: the script fetches them from `/health` as soon as it runs."""
    return render(request, "worker/page.html")
