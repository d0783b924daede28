"""Signing in to the admin: who has failed too often waits, and the log says so."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from math import ceil
from typing import Any

from django.conf import settings
from django.contrib.admin.forms import AdminAuthenticationForm
from django.core.exceptions import ValidationError
from django.http import HttpRequest

logger = logging.getLogger(__name__)

# From one address so many at once, and one more after so long: each try takes half a second of a core, too.
BURST, EVERY_S = 10, 6.0
MAX_ADDRESSES = 10_000


class Tries:
    """How many each address has left. For any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._whole_at: dict[str, float] = {}  # by address, when it has all of its tries again

    def take(self, address: str) -> float:
        """One of them: 0; or for how long it has none."""
        with self._lock:
            now = self._clock()
            whole_at = max(now, self._whole_at.get(address, 0.0))
            wait_s = whole_at - now - (BURST - 1) * EVERY_S
            if wait_s > 0:
                return wait_s
            if len(self._whole_at) >= MAX_ADDRESSES:
                self._whole_at = {each: at for each, at in self._whole_at.items() if at > now}
                if len(self._whole_at) >= MAX_ADDRESSES:
                    self._whole_at.clear()
            self._whole_at[address] = whole_at + EVERY_S
            return 0.0

    def give_back(self, address: str) -> None:
        """It was the right password."""
        with self._lock:
            if address in self._whole_at:
                self._whole_at[address] -= EVERY_S


tries = Tries()


class SignInForm(AdminAuthenticationForm):
    """Django's, which tries as many passwords as somebody likes."""

    def clean(self) -> dict[str, Any]:
        """Django: name and password."""
        address = address_of(self.request)
        # Before the password is checked: of a hundred at once, ninety are not.
        wait_s = tries.take(address)
        if wait_s:
            message = f"Too many failed sign-ins from {address}; try again in {ceil(wait_s)} s."
            raise ValidationError(message, code="too_many")
        try:
            cleaned: dict[str, Any] = super().clean()
        except ValidationError:
            logger.warning("a sign-in from %s failed", address)
            raise
        tries.give_back(address)
        return cleaned


def address_of(request: HttpRequest | None) -> str:
    """Where a request comes from: behind a proxy that ends TLS, what this says of it."""
    meta = request.META if request is not None else {}
    forwarded = meta.get("HTTP_X_FORWARDED_FOR", "") if settings.IS_BEHIND_TLS else ""
    return (forwarded.rpartition(",")[2].strip() or meta.get("REMOTE_ADDR") or "an unknown address")[:64]
