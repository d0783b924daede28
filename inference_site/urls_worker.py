"""URLs of a worker process."""

from django.urls import include, path, re_path

from inference_site.api import favicon, v2

urlpatterns = [
    path("favicon.ico", favicon),
    path("", include("worker_app.urls")),
    re_path(r"^v2(?:/.*)?$", v2),
]

handler400 = "inference_site.apierrors.bad_request"
handler404 = "inference_site.apierrors.not_found"
handler500 = "inference_site.apierrors.server_error"
