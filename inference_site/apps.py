"""Apps of others, without what they import only because it is installed: a quarter of a gateway's start."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from django.apps import AppConfig
from rest_framework.apps import RestFrameworkConfig

# PostgreSQL's fields, with the driver, for serializers of models; an HTTP client, for tests.
DRF_HAS_NO_USE_FOR = ("django.contrib.postgres.fields", "requests")


@contextmanager
def hidden(names: tuple[str, ...]) -> Iterator[None]:
    """Meanwhile these modules can't be imported, unless they have been already."""
    fresh = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(fresh))  # type: ignore[arg-type]  # None: an import fails
    try:
        yield
    finally:
        for name in fresh:
            del sys.modules[name]


with hidden(DRF_HAS_NO_USE_FOR):  # which it looks for once, before any other of its modules
    import rest_framework.compat  # noqa: F401


class RestFramework(RestFrameworkConfig):
    """As it is."""


class Daphne(AppConfig):
    """Its runserver; its own configuration imports the server, with Twisted, into every process."""

    name = "daphne"
