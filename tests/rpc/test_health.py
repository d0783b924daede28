"""grpc.health.v1, by its numbers: its package is not among what is installed."""

import signal

import grpc
import pytest

from tests.support.processes import wait_until

SERVING, NOT_SERVING, UNKNOWN = b"\x08\x01", b"\x08\x02", b"\x08\x03"
INFERENCE = "inference.GRPCInferenceService"


def named(service: str) -> bytes:
    return b"\x0a" + bytes([len(service)]) + service.encode() if service else b""


@pytest.mark.parametrize("service", ["", INFERENCE, "grpc.health.v1.Health"])
def test_check(gateway, service):
    with grpc.insecure_channel(gateway.url) as channel:
        assert channel.unary_unary("/grpc.health.v1.Health/Check")(named(service)) == SERVING


def test_check_of_an_unknown_service(gateway):
    with grpc.insecure_channel(gateway.url) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/grpc.health.v1.Health/Check")(named("nope"))
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    assert "there is no service 'nope'" in caught.value.details() and INFERENCE in caught.value.details()


def test_bytes_that_are_no_message(gateway):
    with grpc.insecure_channel(gateway.url) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/grpc.health.v1.Health/Check")(b"\xff\xff")
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_watchers_hear_of_a_drain_at_once(make_gateway):
    with make_gateway() as own, grpc.insecure_channel(own.url) as channel:
        watch = channel.unary_stream("/grpc.health.v1.Health/Watch")
        watched, unknown = watch(named(INFERENCE)), watch(named("nope"))
        assert next(watched) == SERVING and next(unknown) == UNKNOWN
        own.process.send_signal(signal.SIGTERM)
        assert next(watched) == NOT_SERVING
        assert list(watched) == [] and list(unknown) == []
        assert own.wait() == 0


def test_a_watcher_that_leaves_is_forgotten(make_gateway):
    with make_gateway() as own, grpc.insecure_channel(own.url) as channel:
        watched = channel.unary_stream("/grpc.health.v1.Health/Watch")(b"")
        assert next(watched) == SERVING
        watched.cancel()
        wait_until("it ended", lambda: not watched.is_active())
        assert own.terminate() == 0
        assert "Traceback" not in own.log
