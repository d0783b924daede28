"""How gateway and workers behave, as one row that operators edit."""

from typing import ClassVar

from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import Q

from gateway_app.revisions import Recorded
from gateway_app.validators import ZeroOrBetween, between, validate_model_name


class Tuning(Recorded):
    """How gateway and workers behave; there is exactly one row."""

    ONLY: ClassVar = 1
    PAYLOAD: ClassVar = (
        "virtual_nodes", "share_cap_percent", "load_factor", "load_floor", "hot_cache",
        "failure_threshold", "success_threshold", "open_seconds", "error_rate_percent", "slow_factor", "silence_ms",
        "slow_start_seconds", "check_seconds", "request_timeout_ms", "retry_percent", "hedging", "queue_ms",
        "cache_entries", "cache_mib", "hand_off", "batch_size", "batch_wait_ms", "batch_eager",
        "default_model",
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
        help_text="A worker with this many times the mean of requests in flight passes new ones to the next in line, 1"
        " to 100, so that a much-asked input cannot drown its owner. 1.25 is usual; 0: every input stays with its"
        " owner.",
    )
    load_floor = models.PositiveIntegerField(
        "requests in flight to stay",
        default=8,
        validators=between(1, 4096),
        help_text="Up to this many requests in flight (1 to 4,096) a worker passes none on, however busy it is beside"
        " the others.",
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
    error_rate_percent = models.FloatField(
        "error rate that opens it (%)",
        default=20.0,
        validators=between(0, 100, "%"),
        help_text="Percent of a worker's answers of the last 3 or 10 seconds, 20 or more, that may be failures; from"
        " then on it gets nothing more, 0 to 100. 0: only failures in a row count.",
    )
    slow_factor = models.FloatField(
        "slower than the others (times)",
        default=5.0,
        validators=[ZeroOrBetween(1.5, 1000)],
        help_text="A worker that takes this many times as long as the others is sick and gets nothing more, 1.5 to"
        " 1,000. 0: however slow it is, it goes on.",
    )
    silence_ms = models.PositiveIntegerField(
        "silence (ms)",
        default=300,
        validators=[ZeroOrBetween(100, 60_000, "ms")],
        help_text="A worker that says nothing for half of this is asked whether it lives. If it does not answer that"
        " within this many milliseconds, others get its requests, 100 to 60,000. 0: silence is waited out.",
    )
    slow_start_seconds = models.FloatField(
        "slow start (s)",
        default=0.0,
        validators=between(0, 600, "seconds"),
        help_text="Seconds in which a worker that comes back grows to its full share, 0 to 600. 0: all of it at once.",
    )
    check_seconds = models.FloatField(
        "time between checks (s)",
        default=2.0,
        validators=[ZeroOrBetween(0.1, 600, "seconds")],
        help_text="Seconds after which a worker that has computed nothing runs its model as a check, 0.1 to 600. 0:"
        " only requests tell how it is.",
    )
    retry_percent = models.FloatField(
        "second attempts (%)",
        default=20.0,
        validators=between(0, 100, "%"),
        help_text="Requests of the last 10 seconds that may be sent to a second worker, in percent, 0 to 100, and never"
        " fewer than 50. 0: a request that its worker fails has failed, unless the worker itself was lost.",
    )
    hedging = models.BooleanField(
        "ask a second worker when one is slow",
        default=True,
        help_text="On: a request that takes unusually long is sent to a second worker too, and the first answer counts;"
        " within half of the share of second attempts. Off: that happens only at half of the request's time.",
    )
    queue_ms = models.PositiveIntegerField(
        "longest queue (ms)",
        default=2000,
        validators=between(1, 600_000, "ms"),
        help_text="Milliseconds of work that may wait in a worker, 1 to 600,000. Beyond them it says that it is full:"
        " the request goes to another worker, or the client gets 503 at once.",
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
    hand_off = models.BooleanField(
        "results move along with inputs",
        default=True,
        help_text="On: when inputs get another owner, it is given their results, and a worker that stops passes on"
        " those asked for most. Off: the new owner computes them again.",
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
    default_model = models.CharField(
        "model of /infer",
        max_length=100,
        blank=True,
        validators=[validate_model_name],
        help_text="Name of the model that answers requests to /infer which name none. Empty: the one of MODEL_PATH;"
        " without that, the only model there is gets written here, and with several every request must name one.",
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
            models.CheckConstraint(condition=Q(error_rate_percent__range=(0, 100)), name="tuning_error_rate_range"),
            models.CheckConstraint(
                condition=Q(slow_factor=0) | Q(slow_factor__range=(1.5, 1000)), name="tuning_slow_factor_range"
            ),
            models.CheckConstraint(
                condition=Q(silence_ms=0) | Q(silence_ms__range=(100, 60_000)), name="tuning_silence_range"
            ),
            models.CheckConstraint(condition=Q(slow_start_seconds__range=(0, 600)), name="tuning_slow_start_range"),
            models.CheckConstraint(
                condition=Q(check_seconds=0) | Q(check_seconds__range=(0.1, 600)), name="tuning_check_range"
            ),
            models.CheckConstraint(condition=Q(retry_percent__range=(0, 100)), name="tuning_retry_range"),
            models.CheckConstraint(condition=Q(queue_ms__range=(1, 600_000)), name="tuning_queue_range"),
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
