"""System checks: what would go wrong later is said at the start, with an id and a hint."""

import logging
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from django.apps import AppConfig
from django.conf import settings
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.http.request import validate_host

logger = logging.getLogger(__name__)


def check_model_file(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[checks.CheckMessage]:
    """The model that workers serve is a file that can be read."""
    if settings.MODEL_PATH is None:
        return []
    try:
        with settings.MODEL_PATH.open("rb"):
            return []
    except OSError as exc:
        return [
            checks.Error(
                f"MODEL_PATH={str(settings.MODEL_PATH)!r} cannot be read: {exc.strerror}.",
                hint="Set MODEL_PATH to an .onnx file; models/train_digits.py makes the bundled one.",
                id="inference.E001",
            )
        ]


def check_model_repository(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[checks.CheckMessage]:
    """The folder of models, if one is set, can be read."""
    if settings.MODEL_REPOSITORY is None:
        return []
    try:
        next(settings.MODEL_REPOSITORY.iterdir(), None)
        return []
    except OSError as exc:
        return [
            checks.Error(
                f"MODEL_REPOSITORY={str(settings.MODEL_REPOSITORY)!r} cannot be read: {exc.strerror}.",
                hint="Set it to a folder with NAME/1/model.onnx in it for each model, or make that folder: it may be"
                " empty at first.",
                id="inference.E002",
            )
        ]


def check_origins(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[checks.CheckMessage]:
    """The names by which browsers call the admin are among those that the gateway answers to."""
    return [
        checks.Warning(
            f"CSRF_TRUSTED_ORIGINS has {origin!r}, but ALLOWED_HOSTS is {','.join(settings.ALLOWED_HOSTS)!r}: what is"
            " asked of that origin is refused.",
            hint=f"Add {host} to ALLOWED_HOSTS.",
            id="inference.W002",
        )
        for origin in settings.CSRF_TRUSTED_ORIGINS
        # A wildcard, as https://*.example.com, is .example.com among the hosts.
        if not validate_host(host := (urlsplit(origin).hostname or "").removeprefix("*"), settings.ALLOWED_HOSTS)
    ]


def check_tls(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[checks.CheckMessage]:
    """For `check --deploy`: the admin's passwords and sessions are not sent in the clear."""
    if settings.IS_BEHIND_TLS or not settings.IS_GATEWAY:
        return []
    return [
        checks.Warning(
            "No https origin is set: passwords and sessions of the admin are sent in the clear.",
            hint="Put a proxy that ends TLS in front, as in docs/nginx.conf, and set CSRF_TRUSTED_ORIGINS to its"
            " origin, as https://inference.example.com.",
            id="inference.W001",
        )
    ]


def register_checks() -> None:
    """Called by both apps; registering twice is harmless, as the registry is a set."""
    checks.register(check_model_file)
    checks.register(check_model_repository)
    checks.register(check_origins)
    checks.register(check_tls, deploy=True)


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect to a server that listens on `host`."""
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def require_public_settings(host: str) -> None:
    """Refuses to let a gateway listen on `host` beyond this machine with settings that are only right on it.

    Raises ImproperlyConfigured with what is missing. A worker has no such settings; both are warned of a missing token.
    """
    if is_loopback(host):
        return
    missing = []
    if settings.IS_GATEWAY and settings.SECRET_KEY_IS_GENERATED:
        missing.append(
            "SECRET_KEY (for example the output of `python -c 'import secrets; print(secrets.token_urlsafe(50))'`)"
        )
    if settings.IS_GATEWAY and settings.ALLOWED_HOSTS_ARE_DEFAULT:
        missing.append("ALLOWED_HOSTS (the names that clients call this gateway by, comma-separated)")
    if missing:
        raise ImproperlyConfigured(
            f"--host {host} can be reached from other machines, and {' and '.join(missing)} must be set for that."
            " Set the environment, or listen on 127.0.0.1."
        )
    if not settings.INFERENCE_TOKEN:
        logger.warning(
            "Listening on %s without INFERENCE_TOKEN: whoever reaches a worker's port can use it as a gateway does."
            " Set the same INFERENCE_TOKEN for the gateway and all workers.",
            host,
        )
