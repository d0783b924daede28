"""What is asked of a gateway or a worker from outside: its address, and what its model takes."""

from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError

from gateway_app.probe import base_url, input_values, output_values, worker_url


@pytest.mark.parametrize(
    ("model_record", "inputs", "outputs"),
    [
        ({"input_shape": ["batch", 64], "output_shape": ["batch", 10], "batches": True}, 64, 10),
        ({"input_shape": [-1, 3, 4], "output_shape": [-1, "n"]}, 12, None),
        ({"input_shape": [1, 64], "output_shape": [1, 10], "batches": False}, 64, 10),
        ({"input_shape": ["batch", "length"], "output_shape": ["batch"]}, 1, 1),
        ({"input_shape": None}, None, None),
        ({}, None, None),
    ],
)
def test_sizes_of_a_model(model_record: dict[str, Any], inputs: int | None, outputs: int | None) -> None:
    health = {"model": model_record}
    assert (input_values(health), output_values(health)) == (inputs, outputs)
    assert input_values(None) is None


@pytest.mark.parametrize(
    ("address", "gateway", "url"),
    [
        ("127.0.0.1:8001", "http://127.0.0.1:8000", "http://127.0.0.1:8001"),
        ("127.0.0.1:8001", "http://10.0.0.5:8000", "http://10.0.0.5:8001"),
        ("localhost:8001", "http://[fd00::5]:8000", "http://[fd00::5]:8001"),
        ("10.0.0.7:8001", "http://10.0.0.5:8000", "http://10.0.0.7:8001"),
    ],
)
def test_a_workers_loopback_is_the_gateways_host(address: str, gateway: str, url: str) -> None:
    assert worker_url(address, gateway) == url


def test_addresses() -> None:
    assert base_url("here:8000/") == "http://here:8000"
    for bad in ("", "http://", "ws://here", "here:port"):
        with pytest.raises(ValueError, match="is not an address"):
            base_url(bad)
    with pytest.raises(CommandError, match="'ws://here' is not an address"):
        call_command("diagnose", "--workers", "ws://here")
    with pytest.raises(CommandError, match="--timeout 0"):
        call_command("diagnose", "--timeout", "0")
