"""URLs of a gateway process."""

from django.contrib import admin
from django.urls import include, path, re_path
from django.views.generic import RedirectView

from inference_site.api import favicon, v2

urlpatterns = [
    path("admin", RedirectView.as_view(pattern_name="admin:index")),
    path("favicon.ico", favicon),
    path("admin/", admin.site.urls),
    path("", include("gateway_app.urls")),
    re_path(r"^v2(?:/.*)?$", v2),
]

handler400 = "inference_site.apierrors.bad_request"
handler404 = "inference_site.apierrors.not_found"
handler500 = "inference_site.apierrors.server_error"
