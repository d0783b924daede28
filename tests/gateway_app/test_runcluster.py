"""What runcluster's options mean for the processes that it starts."""

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError

from gateway_app.management.commands import runcluster
from inference_site.ports import listen
from tests.support.ports import free_ports


class Unstarted:
    """In the supervisor's place: keeps what it was given."""

    def __init__(self, stages, console, *, ready_line, check):
        self.specs = {spec.name: spec for stage in stages for spec in stage.children}
        self.ready_line = ready_line

    def run(self):
        for spec in self.specs.values():
            spec.listener.close()


@pytest.fixture
def start(monkeypatch, settings):
    """start("--workers", "1") is the supervisor as it would have run."""
    made = []

    class Kept(Unstarted):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            made.append(self)

    class Prepared:
        done = True

        def __init__(self, *args):
            pass

        def begin(self):
            pass

    monkeypatch.setattr(runcluster, "Supervisor", Kept)
    monkeypatch.setattr(runcluster, "Preparation", Prepared)
    for name in ("MODEL_REPOSITORY", "GRPC_PORT"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments):
        call_command("runcluster", "--workers", "2", "--port", "0", "--worker-port", "0", *arguments)
        return made.pop()

    return run


def test_a_repository_is_for_every_process(start, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    started = start("--repository", "models")
    folders = {name: spec.env.get("MODEL_REPOSITORY") for name, spec in started.specs.items()}
    assert folders == dict.fromkeys(("worker_1", "worker_2", "gateway"), str(tmp_path / "models"))
    assert started.specs["worker_1"].argv()[-5:-3] == ("worker_1", "--host")  # no model file beside it
    assert "MODEL_REPOSITORY" not in start().specs["worker_1"].env


def test_a_model_and_a_repository_go_together(start, tmp_path):
    model = tmp_path / "one.onnx"
    model.touch()
    spec = start("--repository", str(tmp_path), "--model", str(model)).specs["worker_2"]
    assert spec.env["MODEL_REPOSITORY"] == str(tmp_path)
    assert str(model) in spec.argv()


def test_grpc_is_off_unless_asked_for(start, settings):
    off = start()
    assert off.specs["gateway"].env["GRPC_PORT"] == "0"
    assert "gRPC" not in off.ready_line
    one, other = free_ports(2)  # that can be listened at is looked at
    on = start("--grpc-port", str(one))
    assert on.specs["gateway"].env["GRPC_PORT"] == str(one)
    assert on.ready_line.endswith(f", gRPC on port {one}")
    settings.GRPC_PORT = other
    assert start().specs["gateway"].env["GRPC_PORT"] == str(other)
    assert start("--grpc-port", "0").specs["gateway"].env["GRPC_PORT"] == "0"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--repository", "no/such"), "--repository is no/such, and there is no such folder; make it"),
        (("--grpc-port", "70000"), "--grpc-port is 70000; give a port from 1 to 65535, or 0"),
        (("--grpc-port", "-1"), "--grpc-port is -1; give a port from 1 to 65535, or 0"),
    ],
)
def test_an_option_that_cannot_be_is_named_with_the_fix(start, arguments, says):
    with pytest.raises(CommandError, match=says):
        start(*arguments)


@pytest.mark.parametrize("taken_by", ["a stranger", "the gateway"])
def test_a_grpc_port_that_is_taken_is_said_before_anything_starts(start, monkeypatch, taken_by):
    def refuse(*args):
        raise AssertionError("something was started")

    monkeypatch.setattr(runcluster, "supervisor", refuse)
    with listen("127.0.0.1", 0, "--port") as listener:
        port = str(listener.getsockname()[1])
        if taken_by == "the gateway":
            listener.close()
        arguments = ("--port", port) if taken_by == "the gateway" else ()
        with pytest.raises(CommandError, match=f"port {port} on 127.0.0.1: another program uses it.*with --grpc-port"):
            start("--grpc-port", port, *arguments)
