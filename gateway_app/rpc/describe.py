"""What the protocol's messages say of models: metadata, configuration, statistics, the index of the repository."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gateway_app.rpc import open_inference_pb2 as pb
from inference_site.lib.catalog import ModelInfo, State, Statistics, TensorInfo
from inference_site.lib.datatypes import BYTES

PLATFORM, BACKEND = "onnxruntime_onnx", "onnxruntime"


def metadata(info: ModelInfo, versions: Iterable[str]) -> pb.ModelMetadataResponse:
    """`versions` are those of this model that can be asked."""
    return pb.ModelMetadataResponse(
        name=info.name,
        versions=versions,
        platform=PLATFORM,
        inputs=[_tensor(each) for each in info.inputs],
        outputs=[_tensor(each) for each in info.outputs],
    )


def config(info: ModelInfo) -> pb.ModelConfigResponse:
    """The configuration in Triton's words: sizes of tensors are without the batch axis if the model batches."""
    described = pb.ModelConfig(
        name=info.name,
        platform=PLATFORM,
        backend=BACKEND,
        max_batch_size=info.max_batch_size if info.batches else 0,
        response_cache=pb.ModelResponseCache(enable=info.cached),
    )
    for each in info.inputs:
        described.input.add(name=each.name, data_type=_data_type(each), dims=_dims(each, info.batches))
    for each in info.outputs:
        described.output.add(name=each.name, data_type=_data_type(each), dims=_dims(each, info.batches))
    if info.batches:
        described.dynamic_batching.max_queue_delay_microseconds = info.max_wait_us
    return pb.ModelConfigResponse(config=described)


def statistics(name: str, version: str, counted: Statistics) -> pb.ModelStatistics:
    """One version's."""
    computed = counted.computed
    message = pb.ModelStatistics(
        name=name,
        version=version,
        last_inference=counted.last_inference_ms,
        inference_count=counted.inferences,
        execution_count=counted.executions,
        inference_stats=pb.InferStatistics(
            success=_duration(counted.success, counted.success_ns),
            fail=_duration(counted.fail, counted.fail_ns),
            queue=_duration(computed, counted.queue_ns),
            compute_input=_duration(computed, counted.compute_input_ns),
            compute_infer=_duration(computed, counted.compute_infer_ns),
            compute_output=_duration(computed, counted.compute_output_ns),
            cache_hit=_duration(counted.cache_hits, counted.cache_hit_ns),
            cache_miss=_duration(counted.cache_misses, counted.cache_miss_ns),
        ),
    )
    for size, (count, ns) in sorted(counted.batches.items()):
        message.batch_stats.add(batch_size=size, compute_infer=_duration(count, ns))
    return message


def index(models: Iterable[ModelInfo], only_ready: bool) -> pb.RepositoryIndexResponse:
    """Every version that is known, or that can be asked."""
    response = pb.RepositoryIndexResponse()
    for each in models:
        if each.state == State.READY or not only_ready:
            response.models.add(name=each.name, version=each.version, state=each.state, reason=each.reason)
    return response


def _tensor(info: TensorInfo) -> pb.ModelMetadataResponse.TensorMetadata:
    return pb.ModelMetadataResponse.TensorMetadata(name=info.name, datatype=info.datatype, shape=info.shape)


def _data_type(info: TensorInfo) -> Any:
    return pb.DataType.Value("TYPE_STRING" if info.datatype == BYTES else f"TYPE_{info.datatype}")


def _dims(info: TensorInfo, batches: bool) -> tuple[int, ...]:
    return info.shape[1:] if batches else info.shape


def _duration(count: int, ns: int) -> pb.StatisticDuration:
    return pb.StatisticDuration(count=count, ns=ns)
