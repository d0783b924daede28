"""URLs of a worker process."""

from django.urls import include, path

urlpatterns = [path("", include("worker_app.urls"))]

handler400 = "inference_site.apierrors.bad_request"
handler404 = "inference_site.apierrors.not_found"
handler500 = "inference_site.apierrors.server_error"
