"""What operators configure, as rows; every change of them leaves a revision that all gateways then follow."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ClassVar

from django.core.exceptions import ValidationError
from django.db import models, transaction
from django.db.models import Q
from django.dispatch import Signal

from gateway_app.changes import describe
from gateway_app.validators import between, validate_host, validate_name

# Sent once the transaction that wrote a revision has been committed, in the process that wrote it.
revision_saved = Signal()
_recording: ContextVar[bool] = ContextVar("recording", default=False)


@contextmanager
def recorded(author: str = "", note: str = "") -> Iterator[None]:
    """One transaction whose changes of workers and tuning, however many, become one revision; none if nothing changed.

    Within another `recorded` it joins that one. `author` is a user's name, empty for the command line; `note` says
    where the change came from.
    """
    if _recording.get():
        yield
        return
    token = _recording.set(True)
    try:
        with transaction.atomic():
            # One writer at a time: in PostgreSQL, two changes at once would each leave the other's out of its payload.
            Tuning.objects.select_for_update().filter(pk=Tuning.ONLY).first()
            yield
            _write_revision(author, note)
    finally:
        _recording.reset(token)


def _write_revision(author: str, note: str) -> None:
    # Without a row to lock yet, before the first revision, writers queue here: before they read each other's rows.
    tuning, _ = Tuning.objects.select_for_update().get_or_create(pk=Tuning.ONLY)
    payload = {
        "workers": list(Worker.objects.order_by("name").values(*Worker.PAYLOAD)),
        "tuning": {field: getattr(tuning, field) for field in Tuning.PAYLOAD},
    }
    newest = Revision.objects.order_by("-id").first()
    if newest is None or newest.payload != payload:
        summary = describe(newest.payload if newest else {}, payload)
        Revision.objects.create(author=author, summary=f"{note}: {summary}" if note else summary, payload=payload)
        transaction.on_commit(lambda: revision_saved.send(sender=Revision), robust=True)


class RecordedQuerySet(models.QuerySet[Any]):
    """Bulk changes are recorded as single ones are."""

    def update(self, **values: Any) -> int:
        with recorded():
            return super().update(**values)

    def delete(self) -> tuple[int, dict[str, int]]:
        with recorded():
            return super().delete()


class Recorded(models.Model):
    """A row of the configuration: saving or deleting it writes a revision in the same transaction."""

    objects = RecordedQuerySet.as_manager()

    class Meta:
        abstract = True

    def save(self, *args: Any, **kwargs: Any) -> None:
        with recorded():
            super().save(*args, **kwargs)

    def delete(self, *args: Any, **kwargs: Any) -> tuple[int, dict[str, int]]:
        with recorded():
            return super().delete(*args, **kwargs)


class Worker(Recorded):
    """One worker that the gateway may send requests to; its name is its place on the ring."""

    PAYLOAD: ClassVar = ("name", "host", "port", "weight", "enabled", "draining", "named")

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
    named = models.BooleanField(
        default=True, editable=False, help_text="Off: known by address only, until its handshake tells the name."
    )
    created = models.DateTimeField(auto_now_add=True)
    changed = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ("name",)
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


class Tuning(Recorded):
    """How gateway and workers behave; there is exactly one row."""

    ONLY: ClassVar = 1
    PAYLOAD: ClassVar = (
        "virtual_nodes", "share_cap_percent", "load_factor", "load_floor", "hot_cache",
        "failure_threshold", "success_threshold", "open_seconds",
        "cache_entries", "cache_mib", "batch_size", "batch_wait_ms", "batch_eager", "request_timeout_ms",
    )  # fmt: skip

    id = models.PositiveSmallIntegerField(primary_key=True, default=ONLY, editable=False)
    virtual_nodes = models.PositiveIntegerField(
        "virtual nodes per worker",
        default=150,
        validators=between(1, 10_000),
        help_text="Points on the ring per worker, times its weight, from 1 to 10,000. More: inputs are shared out more"
        " evenly, and a lost worker's inputs spread over more of the others. A change moves inputs to other caches.",
    )
    share_cap_percent = models.FloatField(
        "share above the fair one (%)",
        default=2.0,
        validators=between(0, 100, "%"),
        help_text="Percent by which a worker may own more inputs than its weight entitles it to, 0 to 100. 2: shares"
        " are even. Larger: fewer inputs move when workers come and go. 0: no limit, the ring alone decides.",
    )
    load_factor = models.FloatField(
        "load above the mean (times)",
        default=1.25,
        validators=between(0, 100),
        help_text="A worker with this many times the mean of requests in flight passes new ones to the next in line, so"
        " that a much-asked input cannot drown its owner. 1.25 is usual; 0: every input stays with its owner.",
    )
    load_floor = models.PositiveIntegerField(
        "requests in flight to stay",
        default=8,
        validators=between(1, 4096),
        help_text="Up to this many requests in flight a worker passes none on, however busy it is beside the others.",
    )
    hot_cache = models.BooleanField(
        "keep the hottest results in the gateway",
        default=True,
        help_text="On: the gateway answers the inputs that are asked for most often itself. Off: workers answer all.",
    )
    failure_threshold = models.PositiveIntegerField(
        "failures that open it",
        default=5,
        validators=between(1, 1000),
        help_text="Failures in a row after which a worker gets nothing more, 1 to 1,000. A client's mistake is none.",
    )
    success_threshold = models.PositiveIntegerField(
        "successes that close it",
        default=2,
        validators=between(1, 1000),
        help_text="Successful trial requests after which a worker is trusted again, 1 to 1,000.",
    )
    open_seconds = models.FloatField(
        "seconds open",
        default=30.0,
        validators=between(0.1, 3600, "seconds"),
        help_text="Seconds that a failing worker is left alone before it gets trial requests, 0.1 to 3,600; give or"
        " take a fifth, and twice as long after each trial that fails, up to 300.",
    )
    cache_entries = models.PositiveIntegerField(
        "entries per worker",
        default=1000,
        validators=between(0, 10_000_000),
        help_text="Results that each worker remembers, up to 10,000,000; the longest unused go first. 0: no cache.",
    )
    cache_mib = models.PositiveIntegerField(
        "MiB per worker",
        default=256,
        validators=between(1, 1_048_576, "MiB"),
        help_text="Memory that these results may take in each worker, in MiB (1 to 1,048,576), whatever their number.",
    )
    batch_size = models.PositiveIntegerField(
        "requests per batch",
        default=32,
        validators=between(1, 1024),
        help_text="Requests that a worker runs through the model together at most, 1 to 1,024. 1: no batches.",
    )
    batch_wait_ms = models.FloatField(
        "longest wait (ms)",
        default=20.0,
        validators=between(0, 10_000, "ms"),
        help_text="Milliseconds that a request may wait for others to join its batch, 0 to 10,000.",
    )
    batch_eager = models.BooleanField(
        "start at once when the model is free",
        default=True,
        help_text="On: quickest answers; batches form by themselves under load. Off: a batch waits until it is full or"
        " the longest wait is over, which makes larger batches and slower answers.",
    )
    request_timeout_ms = models.PositiveIntegerField(
        "time per request (ms)",
        default=10_000,
        validators=between(1, 600_000, "ms"),
        help_text="Milliseconds after which a request that has no answer ends with status 504, 1 to 600,000.",
    )
    changed = models.DateTimeField(auto_now=True)

    class Meta:
        verbose_name = verbose_name_plural = "tuning"
        constraints = (
            models.CheckConstraint(condition=Q(id=1), name="tuning_only_one"),
            models.CheckConstraint(condition=Q(virtual_nodes__range=(1, 10_000)), name="tuning_virtual_nodes_range"),
            models.CheckConstraint(condition=Q(share_cap_percent__range=(0, 100)), name="tuning_share_cap_range"),
            models.CheckConstraint(condition=Q(load_factor__range=(0, 100)), name="tuning_load_factor_range"),
            models.CheckConstraint(condition=Q(load_floor__range=(1, 4096)), name="tuning_load_floor_range"),
            models.CheckConstraint(condition=Q(failure_threshold__gte=1), name="tuning_failure_threshold_min"),
            models.CheckConstraint(condition=Q(success_threshold__gte=1), name="tuning_success_threshold_min"),
            models.CheckConstraint(condition=Q(open_seconds__gt=0), name="tuning_open_seconds_min"),
            models.CheckConstraint(condition=Q(cache_mib__gte=1), name="tuning_cache_mib_min"),
            models.CheckConstraint(condition=Q(batch_size__range=(1, 1024)), name="tuning_batch_size_range"),
            models.CheckConstraint(condition=Q(batch_wait_ms__range=(0, 10_000)), name="tuning_batch_wait_range"),
            models.CheckConstraint(condition=Q(request_timeout_ms__gte=1), name="tuning_request_timeout_min"),
        )

    def __str__(self) -> str:
        return "Tuning"

    def clean(self) -> None:
        if self.load_factor is not None and 0 < self.load_factor < 1:
            raise ValidationError(
                {"load_factor": f"{self.load_factor:g} is below the mean itself. Take 1 or more, or 0 for no limit."}
            )
        if None in (self.batch_wait_ms, self.request_timeout_ms) or self.batch_eager:
            return
        if self.batch_wait_ms >= self.request_timeout_ms:
            raise ValidationError(
                {
                    "batch_wait_ms": f"With {self.batch_wait_ms:g} ms of waiting, a request would run into its limit of"
                    f" {self.request_timeout_ms} ms before its batch starts. Wait less, or allow more time per request."
                }
            )


class Revision(models.Model):
    """The whole configuration as it was from some moment on; only ever added."""

    created = models.DateTimeField(auto_now_add=True)
    author = models.CharField(max_length=150, blank=True, help_text="Who saved it; empty for the command line.")
    summary = models.TextField(help_text="What changed.")
    payload = models.JSONField()

    class Meta:
        ordering = ("-id",)

    def __str__(self) -> str:
        return f"revision {self.pk}"
