"""Numbers in forms of the admin: what is no number is named, with what to write instead; ranges are the model's."""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite
from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.db import models


class WholeNumber(forms.IntegerField):
    """An integer."""

    def to_python(self, value: Any) -> int | None:
        """Raises ValidationError with the value and the fix."""
        return _named(super().to_python, value, "whole number", "12")  # type: ignore[no-any-return]


class Number(forms.FloatField):
    """A finite number."""

    def to_python(self, value: Any) -> Any:
        """Raises ValidationError with the value and the fix."""

        def finite(text: Any) -> float | None:
            number = super(Number, self).to_python(text)
            if number is not None and not isfinite(number):
                raise ValidationError("")
            return number

        return _named(finite, value, "number", "0.5")


def form_class_of(field: models.Field[Any, Any]) -> dict[str, Any]:
    """What `field.formfield` is to be given for a field of numbers; nothing for others."""
    if isinstance(field, models.FloatField):
        return {"form_class": Number}
    if isinstance(field, models.IntegerField) and not isinstance(field, models.AutoField):
        return {"form_class": WholeNumber, "min_value": None}
    return {}


def _named(read: Callable[[Any], Any], value: Any, what: str, example: str) -> Any:
    try:
        return read(value)
    except ValidationError:
        raise ValidationError(f"{str(value)[:40]!r} is no {what}. Write one, as in {example}.") from None
