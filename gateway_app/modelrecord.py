"""What operators want of one model, as a row."""

from __future__ import annotations

from typing import Any, ClassVar, Self

from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import Q

from gateway_app import modeltext
from gateway_app.revisions import Recorded
from gateway_app.validators import between, readable_by, validate_model_name
from inference_site.lib.catalog import ModelSettings
from inference_site.lib.record import Padding, Record

# Members of a Record that are a column of the same name; None in both is "as usual". Text is empty instead.
PLAIN = (
    "pad_with_zeros", "cached", "batches", "batch_size", "batch_wait_ms", "cache_entries", "deadline_ms", "sessions",
)  # fmt: skip


class ModelRecord(Recorded):
    """One model's settings, which come before those of the `.json` beside its file. A model needs no row."""

    PAYLOAD: ClassVar = (
        "name", "loaded", "versions", "order_number", "output", *PLAIN,
        "padding_dimension", "padding_buckets", "padding_mask", "padding_values", "warm_up",
    )  # fmt: skip

    name = models.CharField(
        max_length=100,
        unique=True,
        validators=[validate_model_name],
        error_messages={"unique": "This model has settings already: edit those."},
        help_text="The model's name: that of its folder in MODEL_REPOSITORY, or of the file that MODEL_PATH names.",
    )
    loaded = models.BooleanField(
        default=True, help_text="On: workers that have its files serve it. Off: they let it go, and clients get 404."
    )
    versions = models.CharField(
        max_length=200,
        blank=True,
        validators=[readable_by(modeltext.read_versions)],
        help_text="Numbers of the versions to serve, as in 1, 3. Empty: the newest one alone.",
    )
    # Workers look for new versions and changed files when they see that the number has changed.
    order_number = models.PositiveIntegerField(default=0, editable=False)
    output = models.CharField(
        "output of /infer",
        max_length=200,
        blank=True,
        help_text="Name of the output that /infer answers with. Empty: as in model.json, else the first one of"
        " floating-point numbers.",
    )
    pad_with_zeros = models.BooleanField(
        "fill up with zeros",
        null=True,
        blank=True,
        help_text="Yes: too few values on /infer are filled up with zeros. No: they are refused with 422. Unknown: as"
        " in model.json, else they are refused.",
    )
    padding_dimension = models.CharField(
        "length that varies",
        max_length=100,
        blank=True,
        help_text="Name of the dimension that inputs are made equal in, as the model's shapes show it. Empty: as"
        " in model.json, else none is.",
    )
    padding_buckets = models.CharField(
        "lengths to fill up to",
        max_length=400,
        blank=True,
        validators=[readable_by(modeltext.read_buckets)],
        help_text="As in 16, 32, 64: an input is filled up to the smallest that holds it, so that inputs of different"
        " lengths form batches. Longer ones than the last run as they are.",
    )
    padding_mask = models.CharField(
        "mask input",
        max_length=200,
        blank=True,
        help_text="Name of the input that is 1 for what is there and 0 for what was filled up. Empty: the model has"
        " none, and its answers must not depend on what is filled up.",
    )
    padding_values = models.CharField(
        "values to fill up with",
        max_length=1000,
        blank=True,
        validators=[readable_by(modeltext.read_fill_values)],
        help_text="As in input_ids = 1, type_ids = 0. An input that is not named is filled up with 0.",
    )
    cached = models.BooleanField(
        "keep results",
        null=True,
        blank=True,
        help_text="No: every request is computed, as for a model that draws random numbers. Unknown: as in model.json,"
        " else they are kept.",
    )
    cache_entries = models.PositiveIntegerField(
        "entries per worker",
        null=True,
        blank=True,
        validators=between(0, 10_000_000),
        help_text="Results of this model that each worker remembers, 0 to 10,000,000. Empty: as in"
        " model.json, else as in the tuning.",
    )
    batches = models.BooleanField(
        "form batches",
        null=True,
        blank=True,
        help_text="No: requests run one by one, whatever the model's shapes say. Unknown: as in model.json, else its"
        " shapes decide.",
    )
    batch_size = models.PositiveIntegerField(
        "rows per batch",
        null=True,
        blank=True,
        validators=between(1, 1024),
        help_text="Rows that run through the model together at most, 1 to 1,024. Empty: as in"
        " model.json, else as in the tuning.",
    )
    batch_wait_ms = models.FloatField(
        "longest wait (ms)",
        null=True,
        blank=True,
        validators=between(0, 10_000, "ms"),
        help_text="Milliseconds that a request may wait for others to join its batch, 0 to 10,000. It counts"
        " only if the tuning does not start a batch at once when the model is free. Empty: as in model.json, else as in"
        " the tuning.",
    )
    sessions = models.PositiveIntegerField(
        "runs at the same time",
        null=True,
        blank=True,
        validators=between(1, 64),
        help_text="Batches that one worker runs at the same time, 1 to 64; each takes memory of its own. Empty: as"
        " in model.json, else 1.",
    )
    deadline_ms = models.PositiveIntegerField(
        "time per request (ms)",
        null=True,
        blank=True,
        validators=between(1, 600_000, "ms"),
        help_text="Milliseconds for a request that names no limit of its own, 1 to 600,000. Empty: as in"
        " model.json, else as in the tuning.",
    )
    warm_up = models.TextField(
        "shapes to warm up with",
        blank=True,
        max_length=4000,
        validators=[readable_by(modeltext.read_warm_up)],
        help_text="Run before it serves, one line each, with the batch size first: input_ids = 8x128, mask = 8x128."
        " Empty: as in model.json, else one row, and a batch.",
    )
    changed = models.DateTimeField(auto_now=True)

    class Meta:
        verbose_name = "model"
        permissions = (("operate_modelrecord", "Can load and unload models"),)
        ordering = ("name",)
        constraints = (
            models.CheckConstraint(condition=~Q(name=""), name="model_name_given"),
            models.CheckConstraint(
                condition=Q(batch_size=None) | Q(batch_size__range=(1, 1024)), name="model_batch_size_range"
            ),
            models.CheckConstraint(
                condition=Q(batch_wait_ms=None) | Q(batch_wait_ms__range=(0, 10_000)), name="model_batch_wait_range"
            ),
            models.CheckConstraint(
                condition=Q(cache_entries=None) | Q(cache_entries__lte=10_000_000), name="model_cache_entries_max"
            ),
            models.CheckConstraint(
                condition=Q(deadline_ms=None) | Q(deadline_ms__range=(1, 600_000)), name="model_deadline_range"
            ),
            models.CheckConstraint(
                condition=Q(sessions=None) | Q(sessions__range=(1, 64)), name="model_sessions_range"
            ),
            models.CheckConstraint(
                condition=Q(padding_dimension="", padding_buckets="", padding_mask="", padding_values="")
                | (~Q(padding_dimension="") & ~Q(padding_buckets="")),
                name="model_padding_whole",
                violation_error_message="Lengths are filled up only if the one that varies and those to fill up to are"
                " both given. Give both, or empty all four fields.",
            ),
        )

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        """Raises ValidationError for values that do not go together."""
        for field in ("output", "padding_dimension", "padding_mask"):
            setattr(self, field, getattr(self, field).strip())
        padding = ("padding_dimension", "padding_buckets", "padding_mask", "padding_values")
        given = [field for field in padding if getattr(self, field).strip()]
        for field in padding[:2]:
            if given and field not in given:
                value = getattr(self, given[0])
                raise ValidationError({field: f"Something must be given here too, or empty {value!r} in its field."})

    @property
    def settings(self) -> ModelSettings:
        """What workers are told. For a row that is valid."""
        versions = modeltext.read_versions(self.versions)
        return ModelSettings(loaded=self.loaded, order=self.order_number, versions=versions, record=self.record)

    @property
    def record(self) -> Record:
        """What it says of the model itself. For a row that is valid."""
        padding = None
        if self.padding_dimension:
            padding = Padding(
                dimension=self.padding_dimension,
                buckets=modeltext.read_buckets(self.padding_buckets),
                mask=self.padding_mask or None,
                values=modeltext.read_fill_values(self.padding_values),
            )
        return Record(
            output=self.output or None,
            padding=padding,
            warm_up=modeltext.read_warm_up(self.warm_up) or None,
            **{name: getattr(self, name) for name in PLAIN},
        )

    def take(self, record: Record) -> Self:
        """Takes over what the record says; where it says nothing, the row stays as it is. Not saved, not checked."""
        said: dict[str, Any] = {name: getattr(record, name) for name in PLAIN}
        said["output"] = record.output
        if record.padding is not None:
            said["padding_dimension"] = record.padding.dimension
            said["padding_buckets"] = modeltext.write_list(record.padding.buckets)
            said["padding_mask"] = record.padding.mask or ""
            said["padding_values"] = modeltext.write_fill_values(record.padding.values)
        if record.warm_up is not None:
            said["warm_up"] = modeltext.write_warm_up(record.warm_up)
        for name, value in said.items():
            if value is not None:
                setattr(self, name, value)
        return self
