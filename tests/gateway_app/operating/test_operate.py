"""`manage.py operate`: it says what it will do, asks, and does it; whoever cannot be asked must have said yes."""

import io
import json
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from types import SimpleNamespace

import pytest
from django.core.management import CommandError, call_command
from django.db import OperationalError

from gateway_app.models import Event, Revision, Worker
from gateway_app.operating import followed

pytestmark = pytest.mark.django_db


@pytest.fixture
def workers():
    return [Worker.objects.create(name=f"worker_{n}", host="127.0.0.1", port=8000 + n) for n in (1, 2, 3)]


class Terminal(io.StringIO):
    """Somebody who types."""

    def isatty(self):
        return True


@pytest.fixture
def types(monkeypatch):
    return lambda text: monkeypatch.setattr("sys.stdin", Terminal(text))


@pytest.fixture
def nobody(monkeypatch):
    """No gateway and no terminal."""
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    return {"gateway": "http://127.0.0.1:9"}


def operate(*arguments, **options):
    out, err = io.StringIO(), io.StringIO()
    options.setdefault("gateway", "http://127.0.0.1:9")
    call_command("operate", *arguments, stdout=out, stderr=err, **options)
    return out.getvalue(), err.getvalue()


def test_it_states_the_effect_and_asks(workers, types, monkeypatch):
    monkeypatch.setattr("getpass.getuser", lambda: "olga")
    for answer in ("", "\n", "n\n", "yesterday\n"):
        types(answer)
        with pytest.raises(CommandError, match=r"^nothing has been changed$"):
            operate("drain", "worker_2")
    assert not Worker.objects.get(name="worker_2").draining
    types("y\n")
    out, err = operate("drain", "worker_2", comment="new disk")
    assert out.startswith("worker_2 stays connected and finishes what it has, but gets nothing new. Its keys (33.5 %")
    assert out.endswith("Drain: worker_2? [y/N] worker_2: draining, as the database has it\n")
    assert err == (
        "Without the figures of http://127.0.0.1:9 (connection refused): by what the database says\n"
        "But no gateway answers at http://127.0.0.1:9 (connection refused). Gateways that run elsewhere follow within a"
        " second; name one with --gateway to see it. If none runs, it is done when one starts.\n"
    )
    assert Worker.objects.get(name="worker_2").draining
    newest = Revision.objects.latest("id")
    assert (newest.author, newest.comment) == ("cli:olga", "new disk")
    event = Event.objects.latest("id")
    assert (event.kind, event.author, event.reason) == ("action", "cli:olga", "worker_2: draining (new disk)")


def test_without_a_terminal_it_needs_a_yes(workers, nobody):
    with pytest.raises(CommandError, match=r"standard input is no terminal to ask at; add --yes to do it$"):
        operate("trip", "worker_1")
    assert Worker.objects.get(name="worker_1").order_number == 0
    out, err = operate("trip", "worker_1", yes=True)
    assert out == "worker_1: breaker tripped, as the database has it\n"
    assert err.endswith(
        "If none runs, nothing has happened: a breaker is a running gateway's, and one that starts has all of them"
        " closed.\n"
    )
    assert Worker.objects.get(name="worker_1").order == "trip"


def test_what_cannot_be_done_is_said(workers, nobody, monkeypatch):
    for arguments, why in (
        (("trip", "worker_9"), "there is no worker 'worker_9'; the workers are: worker_1, worker_2, worker_3; nothing"),
        (("undrain", "worker_1"), "worker_1 is not draining; nothing has been changed"),
        (("load", "a b"), "'a b' cannot be a model's name"),
    ):
        for yes in (True, False):
            with pytest.raises(CommandError, match=why):
                operate(*arguments, yes=yes)
    with pytest.raises(CommandError, match="invalid choice: 'bounce'"):
        operate("bounce", "worker_1")
    with pytest.raises(CommandError, match="is not an address"):
        operate("trip", "worker_1", gateway="ftp://x")
    with pytest.raises(CommandError, match="the comment has 1,001 characters"):
        operate("trip", "worker_1", yes=True, comment="x" * 1001)

    def away(**kwargs):
        raise OperationalError("could not\nconnect")

    monkeypatch.setattr("gateway_app.operating.actions.recorded", away)
    with pytest.raises(CommandError, match=r"the database does not answer \(could not connect\); check DATABASE_URL"):
        operate("trip", "worker_1", yes=True)


@contextmanager
def gateway(*answers):
    """Its address; the last of its answers to /stats is given again and again."""
    left = list(answers)

    class Gateway(BaseHTTPRequestHandler):
        def do_GET(self):
            answer = left.pop(0) if len(left) > 1 else left[0]
            body = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Gateway) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (
            {
                "workers": [{"name": "worker_2", "connected": True, "in_flight": 14, "node": {"cache_size": 812}}],
                "circuit_breakers": [], "models": [], "gateway": {"hot_entries": 5, "revision": 10**9},
            },
            "The cache of worker_2 is emptied (812 results), and so is what each gateway keeps itself (5 in this one).",
        ),
        ({"workers": 1}, "it is no gateway of this version"),
        ({"workers": [], "circuit_breakers": []}, "it is no gateway of this version"),
        ([], "HTTP 200: []"),
    ],
)  # fmt: skip
def test_the_figures_are_those_of_a_gateway_if_it_has_some(workers, types, answer, says):
    with gateway(answer) as url:
        types("y\n")
        out, err = operate("flush", "worker_2", gateway=url)
    assert says in out + err
    assert "worker_2: cache flushed" in out


def test_it_says_so_once_the_gateway_follows(workers, nobody):
    newest = Revision.objects.latest("id").pk
    earlier, following = ({"gateway": {"revision": each}} for each in (newest, newest + 1))
    with gateway(earlier, earlier, following) as url:
        out, err = operate("drain", "worker_2", yes=True, gateway=url)
    assert (out, err) == (f"worker_2: draining; the gateway at http://{url} follows\n", "")


def test_a_gateway_that_does_not_follow_says_why(workers, nobody, monkeypatch):
    monkeypatch.setattr(followed, "PATIENCE_S", 0.2)
    newest = Revision.objects.latest("id").pk
    for error, why in (("the database does not answer", "the database does not answer"), ("", "look at its log")):
        with gateway({"gateway": {"revision": newest, "config_error": error}}) as url:
            out, err = operate("drain" if error else "undrain", "worker_2", yes=True, gateway=url)
        assert out.endswith(", as the database has it\n")
        assert err.startswith(f"But the gateway at http://{url} still follows revision {newest}, not {newest + 1}: ")
        assert err.endswith(f"{why}. It is done once the gateway follows.\n")
        newest += 1


def test_a_database_that_goes_away_after_it_takes_nothing_back(workers, nobody, monkeypatch):
    def away(*_):
        raise OperationalError("connection refused")

    monkeypatch.setattr(followed, "Revision", SimpleNamespace(objects=SimpleNamespace(order_by=away)))
    out, err = operate("drain", "worker_2", yes=True)
    assert out == "worker_2: draining, as the database has it\n"
    assert err.startswith(
        "But whether a gateway follows is not known: the database does not answer (connection refused"
    )
