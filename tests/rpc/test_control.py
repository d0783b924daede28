"""Loading and unloading, and who may."""

import socket

import pytest
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2 as pb
from tritonclient.utils import InferenceServerException

from tests.support.processes import wait_until


def refusal(of):
    with pytest.raises(InferenceServerException) as caught:
        of()
    return caught.value.status().removeprefix("StatusCode."), caught.value.message()


@pytest.fixture
def own(make_gateway):
    with make_gateway() as running:
        yield running


@pytest.fixture
def own_client(own):
    with triton.InferenceServerClient(own.url) as client:
        yield client


def test_load_returns_once_it_is_loaded_and_unload(own, own_client):
    own_client.load_model("echo")
    own.wait_for_line("^loaded echo$")
    own_client.unload_model("echo")
    own.wait_for_line("^unload echo$")


def test_what_can_not_be_loaded_says_why(own_client):
    code, message = refusal(lambda: own_client.load_model("broken"))
    assert (code, message) == ("INVALID_ARGUMENT", "broken can't be loaded: the file is no model")


def test_settings_and_files_are_not_taken_by_this_way(own, own_client):
    code, message = refusal(lambda: own_client.load_model("echo", config="{}"))
    assert code == "INVALID_ARGUMENT" and "parameter config can't override a file" in message
    assert "load echo" not in own.log


def test_a_client_that_leaves_does_not_undo_its_order(own, own_client):
    call = own_client._client_stub.RepositoryModelLoad.future(pb.RepositoryModelLoadRequest(model_name="echo"))
    own.wait_for_line("^load echo$")
    call.cancel()
    own.wait_for_line("^loaded echo$")


def test_with_a_token_only_who_has_it(make_gateway):
    with make_gateway(MODEL_CONTROL_TOKEN="sesam") as guarded, triton.InferenceServerClient(guarded.url) as client:
        for headers in (None, {"authorization": "Bearer wrong"}, {"authorization": "sesam"}):
            code, message = refusal(lambda h=headers: client.load_model("echo", headers=h))
            assert code == "PERMISSION_DENIED" and "MODEL_CONTROL_TOKEN" in message and "sesam" not in message
            assert refusal(lambda h=headers: client.unload_model("echo", headers=h))[0] == "PERMISSION_DENIED"
        assert "load" not in guarded.log
        client.load_model("echo", headers={"authorization": "Bearer sesam"})
        wait_until("it was loaded", lambda: "loaded echo" in guarded.log)
        assert "Traceback" not in guarded.log and "never awaited" not in guarded.log


def test_without_a_token_not_who_comes_through_a_proxy(own_client):
    code, message = refusal(lambda: own_client.load_model("echo", headers={"x-forwarded-for": "192.0.2.1"}))
    assert code == "PERMISSION_DENIED" and "set MODEL_CONTROL_TOKEN" in message


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
def test_by_ipv6_too(make_gateway):
    with make_gateway("--host", "::1") as own, triton.InferenceServerClient(f"[::1]:{own.port}") as client:
        client.load_model("echo")
