"""A change that one worker tries out before the others get it, as a row."""

from typing import ClassVar

from django.db import models
from django.db.models import Q

from gateway_app.revisions import Recorded
from gateway_app.validators import validate_model_name, validate_name


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
