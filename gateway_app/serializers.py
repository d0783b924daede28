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
    last_error_age_s = serializers.FloatField(allow_null=True, help_text="seconds since then")
    cause = serializers.CharField(allow_blank=True, help_text="what its last change of state was due to")
    reason = serializers.CharField(allow_blank=True, help_text="the same, in words")


class EventSerializer(serializers.Serializer):
    """Something that happened; `before` and `after` are states, of a breaker those of its own."""

    at = serializers.DateTimeField()
    age_s = serializers.FloatField(help_text="seconds since then")
    kind = serializers.ChoiceField(choices=("breaker", "worker", "model", "config", "action"))
    worker = serializers.CharField(allow_blank=True)
    model = serializers.CharField(allow_blank=True)
    before = serializers.CharField(allow_blank=True)
    after = serializers.CharField(allow_blank=True)
    reason = serializers.CharField(allow_blank=True)
    author = serializers.CharField(allow_blank=True, help_text="who did it, if somebody did")


class StatsSerializer(serializers.Serializer):
    """The gateway's numbers."""

    total_workers = serializers.IntegerField()
    circuit_breakers = CircuitBreakerSerializer(many=True)
    workers = serializers.ListField(child=serializers.DictField())
    models = serializers.ListField(child=serializers.DictField())
    gateway = serializers.DictField()
    hottest = serializers.ListField(child=serializers.DictField(), help_text="the inputs that are asked for most often")
    point = serializers.DictField(allow_null=True, help_text="the last whole second, as in /history")
    canary = serializers.DictField(allow_null=True, help_text="what one worker tries before the others")
    guard = serializers.DictField(allow_null=True, help_text="a change that may be taken back by itself")
    events = EventSerializer(many=True, help_text="the newest 50, newest last")
