"""What operators configure, and what a gateway has to tell them, as rows."""

from typing import ClassVar

from django.db import models
from django.db.models import Q

from gateway_app.canaryrecord import Canary
from gateway_app.modelrecord import ModelRecord
from gateway_app.revisions import Recorded, Revision, recorded, revision_saved
from gateway_app.tuning import Tuning
from gateway_app.validators import between, validate_host, validate_name, validate_order

__all__ = ["Canary", "Event", "Guard", "ModelRecord", "Revision", "Tuning", "Worker", "recorded", "revision_saved"]


class Worker(Recorded):
    """One worker that the gateway may send requests to; its name is its place on the ring."""

    PAYLOAD: ClassVar = (
        "name", "host", "port", "weight", "enabled", "draining", "named", "isolated", "order", "order_number",
    )  # fmt: skip

    name = models.CharField(
        max_length=100,
        unique=True,
        validators=[validate_name],
        error_messages={"unique": "Another worker has this name already. Choose another one, or edit that worker."},
        help_text="The NODE_ID that the worker was started with, as in worker_1. It decides which inputs it gets: with"
        " the name kept, a new address moves none of them.",
    )
    host = models.CharField(
        max_length=253, validators=[validate_host], help_text="Host name or IP address where the worker listens."
    )
    port = models.PositiveIntegerField(validators=between(1, 65535), help_text="Port where the worker listens.")
    weight = models.FloatField(
        default=1.0,
        validators=between(0.01, 100),
        help_text="Its share of the inputs, relative to the others: 2 gets twice as many as 1. From 0.01 to 100.",
    )
    enabled = models.BooleanField(
        default=True, help_text="Off: the gateway closes its connection to this worker and forgets its state."
    )
    draining = models.BooleanField(
        default=False,
        help_text="On: it stays connected and finishes what it has, but gets nothing new; only its own inputs move.",
    )
    isolated = models.BooleanField(
        default=False,
        help_text="On: it stays connected but gets no request whatever happens, not even if no other worker is left.",
    )
    # A gateway carries an order out once: when it sees that the number has changed.
    order = models.CharField(max_length=10, blank=True, validators=[validate_order], editable=False)
    order_number = models.PositiveIntegerField(default=0, editable=False)
    named = models.BooleanField(
        default=True, editable=False, help_text="Off: known by address only, until its handshake tells the name."
    )
    created = models.DateTimeField(auto_now_add=True)
    changed = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ("name",)
        permissions = (("operate_worker", "Can trip, reset, isolate, drain and flush workers"),)
        constraints = (
            models.UniqueConstraint(
                fields=("host", "port"),
                name="worker_address_unique",
                violation_error_message="Another worker has this host and port already. Change one of the two.",
            ),
            models.CheckConstraint(condition=Q(port__range=(1, 65535)), name="worker_port_range"),
            models.CheckConstraint(condition=Q(weight__gt=0, weight__lte=100), name="worker_weight_range"),
        )

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        self.host = self.host.strip().lower()


class Event(models.Model):
    """Something that happened, as one gateway saw it or an operator did it; the newest 100,000 are kept."""

    class Kind(models.TextChoices):
        BREAKER = "breaker", "breaker"  # before and after are its states
        WORKER = "worker", "worker"  # connected, lost, draining
        MODEL = "model", "model"  # loaded, unloaded, could not be loaded
        CONFIG = "config", "configuration"  # a revision, a guard's verdict, a canary
        ACTION = "action", "action"  # an operator's

    at = models.DateTimeField(db_index=True)
    kind = models.CharField(max_length=10, choices=Kind, default=Kind.BREAKER)
    gateway = models.CharField(max_length=300, blank=True, help_text="The gateway process that saw it.")
    worker = models.CharField(max_length=100, blank=True)
    model = models.CharField(max_length=120, blank=True)
    before = models.CharField(max_length=20, blank=True)
    after = models.CharField(max_length=20, blank=True)
    reason = models.TextField()
    author = models.CharField(max_length=150, blank=True, help_text="Who did it, if somebody did.")

    class Meta:
        ordering = ("-id",)
        indexes = (
            models.Index(fields=("worker", "-id"), name="event_by_worker"),
            models.Index(fields=("kind", "-id"), name="event_by_kind"),
        )

    def __str__(self) -> str:
        return f"{self.worker} {self.before} → {self.after}" if self.kind == self.Kind.BREAKER else self.reason


class Guard(models.Model):
    """Takes a revision back if errors or latency worsen within a time; decided once, by one of the gateways."""

    class State(models.TextChoices):
        WATCHING = "watching", "watching"
        KEPT = "kept", "kept"  # nothing worsened in time
        REVERTED = "reverted", "reverted"
        SUPERSEDED = "superseded", "superseded"  # somebody has changed the configuration again, or ended it by hand

    revision = models.OneToOneField(Revision, models.CASCADE, related_name="guard")
    back_to = models.PositiveBigIntegerField(help_text="The revision to go back to.")
    until = models.DateTimeField()
    error_points = models.FloatField(help_text="Percentage points by which errors may rise.")
    p99_factor = models.FloatField(help_text="Times the p99 latency of before that it may reach.")
    base_error_percent = models.FloatField(help_text="Errors before the change, in percent of the requests.")
    base_p99_ms = models.FloatField(null=True, help_text="The p99 latency before the change; empty without requests.")
    state = models.CharField(max_length=10, choices=State, default=State.WATCHING, db_index=True)
    outcome = models.TextField(blank=True)
    decided = models.DateTimeField(null=True)

    def __str__(self) -> str:
        return f"guard of revision {self.revision_id}: {self.state}"
