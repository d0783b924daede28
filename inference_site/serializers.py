"""What `/infer` takes, for the browsable page; the data plane decodes bodies itself."""

from rest_framework import serializers


class InferRequestSerializer(serializers.Serializer):
    """The body of `POST /infer`."""

    request_id = serializers.CharField(help_text="any string; it comes back with the answer", initial="r1")
    input_data = serializers.JSONField(
        help_text="the model's first input: a flat list of numbers, row-major, one sample", initial=[1.0, 2.0, 3.0]
    )
    model = serializers.CharField(
        help_text="a model's name; left empty: the one that is served by default", required=False, allow_blank=True
    )
