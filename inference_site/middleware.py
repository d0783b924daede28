"""What is done with Django's answers: compressed where that is worth it, with a policy for browsers, and in this API's
shape where Django has none."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from asgiref.sync import sync_to_async
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.middleware.gzip import GZipMiddleware
from django.utils.decorators import async_only_middleware

from inference_site.apierrors import method_not_allowed
from inference_site.v2.target import is_v2

Handler = Callable[[HttpRequest], Awaitable[HttpResponseBase]]

# Scripts and styles come from this site alone, and no script stands in a page.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'{styles}; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
STRICT, WITH_STYLES = POLICY.format(styles=""), POLICY.format(styles=" 'unsafe-inline'")


@async_only_middleware
def compression(get_response: Handler) -> Handler:
    """Django's compression, in a thread and only of what may be compressed.

    Who can have a page repeat something, and sees its compressed length, may guess a secret beside it (BREACH). Pages
    mask their CSRF token anew each time; the admin, which shows users' tokens beside what was searched for, is sent as
    it is. So are inferences: programs ask for these, and inference_site.coding has the rules.
    """
    gzip = GZipMiddleware(get_response)

    async def middleware(request: HttpRequest) -> HttpResponseBase:
        response = await get_response(request)
        if not isinstance(response, HttpResponse) or _is_left(request.path_info):
            return response
        packed: HttpResponseBase = await sync_to_async(gzip.process_response, thread_sensitive=False)(request, response)
        return packed

    return middleware


def _is_left(path: str) -> bool:
    return path == "/infer" or path.startswith("/admin/") or is_v2(path.encode())


@async_only_middleware
def content_security_policy(get_response: Handler) -> Handler:
    """A page that was made to hold somebody else's script does not run it.

    Django's admin and DRF's pages have styles of their own inside; this system's two pages have none.
    """

    async def middleware(request: HttpRequest) -> HttpResponseBase:
        response = await get_response(request)
        is_page = response.headers.get("Content-Type", "").startswith("text/html")
        if is_page and not settings.DEBUG:  # Django's debug pages have scripts in them
            policy = STRICT if request.path_info == "/" else WITH_STYLES
            response.headers.setdefault("Content-Security-Policy", policy)
        return response

    return middleware


@async_only_middleware
def wrong_verbs(get_response: Handler) -> Handler:
    """405 says what to use, for pages and static files too."""

    async def middleware(request: HttpRequest) -> HttpResponseBase:
        response = await get_response(request)
        if response.status_code != 405 or getattr(response, "content", False):
            return response
        response.close()
        return method_not_allowed(request, response.headers["Allow"])

    return middleware
