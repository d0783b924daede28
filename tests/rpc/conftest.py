"""The real gRPC server with a fake plane behind it, in a process of its own, and a client for it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import grpc
import pytest
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2_grpc

from tests.support.processes import Running

PROGRAM = Path(__file__).with_name("fake_gateway.py")


class FakeGateway(Running):
    """`url` is where it serves."""

    def __init__(self, *arguments: str, **env: str) -> None:
        super().__init__([sys.executable, str(PROGRAM), *arguments], {**os.environ, "PYTHONUNBUFFERED": "1", **env})

    def __enter__(self) -> Self:
        super().__enter__()
        try:
            self.port = int(self.wait_for_line(r"^port (\d+)$").group(1))
        except BaseException:
            self.__exit__()
            raise
        self.url = f"127.0.0.1:{self.port}"
        return self


@pytest.fixture
def make_gateway() -> type[FakeGateway]:
    """make_gateway("--max-message", "65536", MODEL_CONTROL_TOKEN="t") is one of this test's own, for a `with`."""
    return FakeGateway


@pytest.fixture(scope="session")
def gateway() -> Iterator[FakeGateway]:
    with FakeGateway() as running:
        yield running


@pytest.fixture
def client(gateway: FakeGateway) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(gateway.url) as made:
        yield made


@pytest.fixture
def stub(gateway: FakeGateway) -> Iterator[service_pb2_grpc.GRPCInferenceServiceStub]:
    """For requests that the client would not let us make."""
    with grpc.insecure_channel(gateway.url) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)
