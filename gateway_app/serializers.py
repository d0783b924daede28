"""The shape of `GET /stats`, for people who read it in a browser and for tests that hold it."""

from rest_framework import serializers


class CircuitBreakerSerializer(serializers.Serializer):
    """One worker's breaker; `failures` and `successes` are what its next change of state depends on."""

    node = serializers.CharField(help_text="address of the worker")
    state = serializers.ChoiceField(choices=("CLOSED", "OPEN", "HALF_OPEN"))
    failures = serializers.IntegerField()
    successes = serializers.IntegerField()
    name = serializers.CharField()
    model = serializers.CharField()
    since_s = serializers.FloatField(help_text="seconds in this state")
    retry_after_s = serializers.FloatField(allow_null=True, help_text="seconds until it admits a probe")
    opens = serializers.IntegerField(help_text="how often it has opened")
    failure_threshold = serializers.IntegerField()
    success_threshold = serializers.IntegerField()
    last_error = serializers.CharField(allow_blank=True)
    cause = serializers.CharField(allow_blank=True, help_text="what its last change of state was due to")


class EventSerializer(serializers.Serializer):
    """A change of a breaker's state."""

    at = serializers.DateTimeField()
    age_s = serializers.FloatField(help_text="seconds since then")
    worker = serializers.CharField()
    before = serializers.CharField()
    after = serializers.CharField()
    reason = serializers.CharField(allow_blank=True)


class StatsSerializer(serializers.Serializer):
    """The gateway's numbers."""

    total_workers = serializers.IntegerField()
    circuit_breakers = CircuitBreakerSerializer(many=True)
    workers = serializers.ListField(child=serializers.DictField())
    models = serializers.ListField(child=serializers.DictField())
    gateway = serializers.DictField()
    events = EventSerializer(many=True, help_text="the newest 20, newest last")
