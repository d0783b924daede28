"""A change that one worker tries out before the others get it, as a row."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any, ClassVar

from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import Q

from gateway_app.modeltext import read_versions
from gateway_app.revisions import Recorded
from gateway_app.tuning import Tuning
from gateway_app.validators import validate_model_name, validate_name

# Of Tuning, what a worker does by itself: batches, and its cache.
FIELDS = ("batch_size", "batch_wait_ms", "batch_eager", "cache_entries", "cache_mib")


class Canary(Recorded):
    """What one worker does otherwise than the rest; there is at most one row.

    `tuning` holds fields of Tuning that concern batches and caches, with their values there. `model` and `version`:
    a version of a model that this worker alone answers with, for its own keys.
    """

    ONLY: ClassVar = 1
    PAYLOAD: ClassVar = ("worker", "tuning", "model", "version")

    id = models.PositiveSmallIntegerField(primary_key=True, default=ONLY, editable=False)
    worker = models.CharField(max_length=100, validators=[validate_name])
    tuning = models.JSONField(default=dict, blank=True)
    model = models.CharField(max_length=100, blank=True, validators=[validate_model_name])
    version = models.CharField(max_length=20, blank=True)
    author = models.CharField(max_length=150, blank=True)
    started = models.DateTimeField(auto_now_add=True)

    class Meta:
        verbose_name_plural = "canaries"
        constraints = (models.CheckConstraint(condition=Q(id=1), name="canary_only_one"),)

    def __str__(self) -> str:
        return f"canary on {self.worker}"

    def clean(self) -> None:
        """Raises ValidationError for values that one worker cannot try, or that do not go together."""
        self.tuning = clean_tuning(self.tuning)
        if bool(self.model) != bool(self.version):
            missing, given = ("version", self.model) if self.model else ("model", f"version {self.version}")
            raise ValidationError({missing: f"{given} alone says nothing. Name a model and one of its versions."})
        try:
            versions = read_versions(self.version)
        except ValueError as error:
            raise ValidationError({"version": str(error)}) from None
        if len(versions) > 1:
            raise ValidationError({"version": f"{self.version!r} are {len(versions)} versions. Try one at a time."})
        self.version = "".join(versions)
        if not self.tuning and not self.model:
            message = "Nothing is to be tried. Give settings of batches or the cache, or a version of a model."
            raise ValidationError({"tuning": message})


def clean_tuning(values: object) -> dict[str, Any]:
    """Settings as Tuning's form takes them. Raises ValidationError for `tuning`, with the value and the fix."""
    if not isinstance(values, Mapping):
        raise ValidationError({"tuning": f"{values!r} is no object of settings and their values."})
    found = {}
    for name, value in values.items():
        if name not in FIELDS:
            message = f"{name!r} cannot be tried on one worker. What can: {', '.join(FIELDS)}."
            raise ValidationError({"tuning": message})
        field: Any = Tuning._meta.get_field(name)
        if isinstance(value, bool) is not (name == "batch_eager"):
            kind = "true or false" if name == "batch_eager" else "a number"
            raise ValidationError({"tuning": f"{field.verbose_name}: {value!r} is not {kind}."})
        if isinstance(value, float) and not isfinite(value):  # passes every comparison, so also the validators
            raise ValidationError({"tuning": f"{field.verbose_name}: {value} is no finite number."})
        try:
            found[name] = field.clean(value, None)
        except ValidationError as error:
            raise ValidationError({"tuning": f"{field.verbose_name}: {error.messages[0]}"}) from None
    return found
