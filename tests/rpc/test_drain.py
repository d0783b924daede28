"""The end of a server, and how another takes over from it."""

import queue
import signal
import socket
import threading
import time

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from tests.rpc.conftest import FakeGateway
from tests.support.ports import free_ports
from tests.support.processes import Running, wait_until
from tests.support.waiting import PATIENCE_S


def floats(*values):
    made = triton.InferInput("x", [1, len(values)], "FP32")
    made.set_data_from_numpy(np.array([values], np.float32))
    return [made]


def test_a_drain_answers_what_is_under_way_and_says_not_ready(make_gateway):
    with make_gateway("--holds") as own, triton.InferenceServerClient(own.url) as client:
        answers: queue.Queue = queue.Queue()

        def ask_for_later(times):
            client.async_infer("later", floats(1), lambda result, error: answers.put((result, error)))
            wait_until("it is under way", lambda: own.log.count("asked later") == times)

        ask_for_later(1)
        own.process.send_signal(signal.SIGTERM)
        own.wait_for_line("^draining$")
        assert client.is_server_live() and not client.is_server_ready() and not client.is_model_ready("echo")
        assert client.infer("echo", floats(2)).as_numpy("out_x").tolist() == [[2]]  # it is only asked to leave
        ask_for_later(2)
        assert own.terminate() == 0
        for _ in range(2):
            result, error = answers.get(timeout=PATIENCE_S)
            assert error is None and result.as_numpy("out_x").tolist() == [[1]]
        assert "stopped" in own.log and "Traceback" not in own.log


def test_one_that_drains_takes_calls_until_it_is_to_leave(make_gateway):
    with make_gateway("--holds") as own:
        with triton.InferenceServerClient(own.url) as client:
            own.process.send_signal(signal.SIGTERM)
            own.wait_for_line("^draining$")
            time.sleep(1.5)  # after which it would take none if nobody held it
            assert not client.is_server_ready()
            assert client.infer("echo", floats(1)).as_numpy("out_x").tolist() == [[1]]
        with triton.InferenceServerClient(own.url) as client:
            assert client.infer("echo", floats(2)).as_numpy("out_x").tolist() == [[2]]
        assert own.terminate() == 0


def test_a_drain_ends_streams_after_their_last_answer(make_gateway):
    with make_gateway() as own, triton.InferenceServerClient(own.url) as client:
        answers: queue.Queue = queue.Queue()
        client.start_stream(lambda result, error: answers.put((result, error)))
        client.async_stream_infer("echo", floats(1))
        assert answers.get(timeout=PATIENCE_S)[1] is None
        client.async_stream_infer("later", floats(2))
        own.wait_for_line("^asked later")
        own.process.send_signal(signal.SIGTERM)
        assert answers.get(timeout=PATIENCE_S)[0].as_numpy("out_x").tolist() == [[2]]
        _, error = answers.get(timeout=PATIENCE_S)
        assert error.status() == "StatusCode.UNAVAILABLE" and "draining" in error.message()
        client.stop_stream()
        assert own.wait() == 0
        assert "Traceback" not in own.log


def test_what_never_ends_does_not_hold_up_the_end(make_gateway):
    with make_gateway() as own, triton.InferenceServerClient(own.url) as client:
        told: queue.Queue = queue.Queue()
        client.async_infer("never", floats(1), lambda result, error: told.put(error))
        client.start_stream(lambda result, error: told.put(error))
        client.async_stream_infer("never", floats(1))
        wait_until("both are asked", lambda: own.log.count("asked never") == 2)
        assert own.terminate() == 0
        assert own.log.count("cancelled\n") == 2 and "Traceback" not in own.log
        assert {told.get(timeout=PATIENCE_S).status(), told.get(timeout=PATIENCE_S).status()} <= {
            "StatusCode.CANCELLED",
            "StatusCode.UNAVAILABLE",
        }
        client.stop_stream()


def test_a_port_that_is_taken_is_named(make_gateway):
    with make_gateway() as own:
        other = Running([*own.argv, "--port", str(own.port)], own._env)
        with other:
            assert other.wait() == 1
            assert f"port {own.port} on 127.0.0.1: another program uses it" in other.log
            assert "--grpc-port" in other.log
    with socket.create_server(("127.0.0.1", 0)) as strange:
        port = str(strange.getsockname()[1])
        with Running([*own.argv, "--port", port, "--succeeds"], own._env) as other:
            assert other.wait() == 1 and "--grpc-port" in other.log


def test_a_port_that_gets_free_is_taken_then():
    with socket.create_server(("127.0.0.1", 0)) as strange:
        port = str(strange.getsockname()[1])
        with FakeGateway("--port", port, "--soon") as own:
            own.wait_for_line("gRPC is not served: cannot listen on port .* tried again each second")
            strange.close()
            own.wait_for_line("gRPC on 127.0.0.1:")
            with triton.InferenceServerClient(own.url) as client:
                assert client.is_server_ready()
            assert own.terminate() == 0


def test_who_waits_for_a_port_can_be_stopped():
    with socket.create_server(("127.0.0.1", 0)) as strange:
        port = str(strange.getsockname()[1])
        with FakeGateway("--port", port, "--soon") as own:
            assert own.terminate() == 0
            assert "Traceback" not in own.log


def test_a_successor_takes_over():
    """A call that meets the very end of its connection was not begun, and says so: asked again, it is answered."""
    port = str(free_ports(1)[0])
    failures: list[str] = []
    done, answered = threading.Event(), [0] * 4

    def ask_on(number: int) -> None:
        with triton.InferenceServerClient(f"127.0.0.1:{port}") as client:
            while not done.is_set():
                try:
                    client.infer("later" if number % 2 else "echo", floats(number))
                    answered[number] += 1
                except InferenceServerException as error:
                    failures.append(error.status())
                    done.wait(0.1)  # a channel that has to connect anew may fail all calls of the next second

    with FakeGateway("--port", port, "--grace", "60") as first:
        threads = [threading.Thread(target=ask_on, args=(number,)) for number in range(4)]
        for each in threads:
            each.start()
        try:
            wait_until("all have asked", lambda: min(answered) > 3)
            with FakeGateway("--port", port, "--succeeds") as second:
                assert first.terminate() == 0
                before = tuple(answered)
                wait_until(
                    "all are answered by the second",
                    lambda: all(b > a + 3 for a, b in zip(before, answered, strict=True)),
                )
                done.set()
                for each in threads:
                    each.join()
                assert "asked echo" in second.log and "asked later" in second.log
                begun = sum(each.log.count("\nasked ") for each in (first, second))
        finally:
            done.set()
    assert begun <= sum(answered) and set(failures) <= {"StatusCode.CANCELLED", "StatusCode.UNAVAILABLE"}
