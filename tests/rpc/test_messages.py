"""The messages are the protocol's: what is in the .proto files, what is generated, and what its clients have agree.

Each in a process of its own, since a process has each message only once.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RPC = ROOT / "gateway_app" / "rpc"
DUMP = """
import importlib, json, sys
found = {}
def add(message):
    found[message.full_name] = {
        f.name: [f.number, f.type, f.is_repeated, f.containing_oneof.name if f.containing_oneof else None,
                 (f.message_type or f.enum_type).full_name if f.message_type or f.enum_type else None]
        for f in message.fields
    }
    for each in message.nested_types:
        add(each)
    for each in message.enum_types:
        found[each.full_name] = {v.name: v.number for v in each.values}
for name in sys.argv[1:]:
    file = importlib.import_module(name).DESCRIPTOR
    for each in file.message_types_by_name.values():
        add(each)
    for each in file.enum_types_by_name.values():
        found[each.full_name] = {v.name: v.number for v in each.values}
    for service in file.services_by_name.values():
        found[service.full_name] = {
            m.name: [m.input_type.full_name, m.output_type.full_name, m.client_streaming, m.server_streaming]
            for m in service.methods
        }
print(json.dumps(found))
"""


def described(*modules: str) -> dict[str, dict[str, object]]:
    """Messages, enums and services by their full names, each with what it consists of."""
    run = subprocess.run([sys.executable, "-c", DUMP, *modules], cwd=ROOT, capture_output=True, text=True, check=True)
    found: dict[str, dict[str, object]] = json.loads(run.stdout)
    return found


@pytest.fixture(scope="module")
def ours():
    return described("gateway_app.rpc.open_inference_pb2", "gateway_app.rpc.health_pb2")


def test_all_that_we_have_is_the_clients(ours):
    clients = described("tritonclient.grpc.service_pb2", "tritonclient.grpc.model_config_pb2")
    compared = {name: parts for name, parts in ours.items() if name.startswith("inference.")}
    assert len(compared) > 40
    for name, parts in compared.items():
        for part, facts in parts.items():
            # A oneof of which we have one member is none.
            theirs = clients[name][part]
            if (name, part) == ("inference.ModelConfig", "dynamic_batching"):
                theirs[3] = None  # type: ignore[index]
            assert facts == theirs, f"{name}.{part}"


def test_the_messages_of_inference_are_whole(ours):
    clients = described("tritonclient.grpc.service_pb2")
    partial = {"inference.GRPCInferenceService", "inference.ModelStatistics"}
    for name, parts in ours.items():
        if name in clients and name not in partial:
            assert parts.keys() == clients[name].keys(), name


def test_the_generated_code_is_that_of_the_proto_files(ours):
    texts = [re.sub(r"//.*", "", (RPC / f"{name}.proto").read_text()) for name in ("open_inference", "health")]
    written = sorted((name, int(number)) for text in texts for name, number in re.findall(r"(\w+) = (\d+);", text))
    entries = {name for name in ours if name.endswith("Entry")}
    generated = sorted(
        (part, facts if isinstance(facts, int) else facts[0])
        for name, parts in ours.items()
        if name not in entries
        for part, facts in parts.items()
        if isinstance(facts, int) or isinstance(facts[0], int)
    )
    assert generated == written
    methods = sorted(each for text in texts for each in re.findall(r"rpc (\w+)\(", text))
    services = [ours["inference.GRPCInferenceService"], ours["grpc.health.v1.Health"]]
    assert sorted(method for each in services for method in each) == methods
