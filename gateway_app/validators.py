"""What counts as a name, a host, a number in range; each refusal names the value and the fix."""

import re
from collections.abc import Callable
from functools import partial
from ipaddress import ip_address

from django.core.exceptions import ValidationError
from django.core.validators import BaseValidator, MaxValueValidator, MinValueValidator
from django.utils.deconstruct import deconstructible

NAME = re.compile(r"[A-Za-z0-9._-]{1,100}")
MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
HOST = re.compile(rf"(?=.{{1,253}}\Z){LABEL}(?:\.{LABEL})*")


def validate_name(name: str) -> None:
    """A worker's name goes into headers, logs and the ring: plain ASCII without blanks."""
    if not NAME.fullmatch(name):
        raise ValidationError(
            f"{name!r} cannot be a worker's name. Use 1 to 100 letters, digits and . _ - only, as in worker_1."
        )


def validate_model_name(name: str) -> None:
    """A model's name is that of a folder, and a part of paths; /v2/models/stats is taken."""
    if not MODEL_NAME.fullmatch(name) or name == "stats":
        raise ValidationError(
            f"{name!r} cannot be a model's name. Use 1 to 100 letters, digits and . _ - that begin with a letter or"
            " digit, as in digits; stats means something else."
        )


def validate_host(host: str) -> None:
    """A host name, an IPv4 address, or an IPv6 address without brackets."""
    try:
        ip_address(host)
    except ValueError:
        # Digits and dots alone were meant as an address, and are none.
        if not HOST.fullmatch(host) or re.fullmatch(r"[\d.]+", host):
            raise ValidationError(
                f"{host!r} is no host. Write a name or an IP address, without scheme, port or brackets."
            ) from None


def validate_order(order: str) -> None:
    """What a gateway can be told to do to a worker, once: to its breaker, or to its cache."""
    if order not in ("trip", "reset", "flush"):
        raise ValidationError(f"{order!r} is no order. Use trip, reset or flush, or leave it empty.")


def between(low: float, high: float, unit: str = "") -> list[BaseValidator]:
    """Validators for low ≤ value ≤ high."""
    unit = unit.replace("%", "%%")  # the sentence is filled in with the value
    sentence = f"%(show_value)s is out of range. Choose from {low:,} to {high:,}{unit and ' '}{unit}."
    return [MinValueValidator(low, sentence), MaxValueValidator(high, sentence)]


def readable_by(read: Callable[[str], object]) -> Callable[[str], None]:
    """Validator for text that `read` understands; its ValueError is what is said. `read` is a module's function."""
    return partial(_readable, read)


def _readable(read: Callable[[str], object], text: str) -> None:
    try:
        read(text)
    except ValueError as error:
        raise ValidationError(str(error)) from None


@deconstructible
class ZeroOrBetween:
    """Validator for 0, which switches something off, or low ≤ value ≤ high."""

    def __init__(self, low: float, high: float, unit: str = "") -> None:
        self.low, self.high, self.unit = low, high, unit

    def __call__(self, value: float) -> None:
        if value != 0 and not self.low <= value <= self.high:
            choices = f"{self.low:,} to {self.high:,}{self.unit and ' '}{self.unit}"
            raise ValidationError(f"{value} is out of range. Choose from {choices}, or 0 to switch it off.")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ZeroOrBetween) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((self.low, self.high, self.unit))
