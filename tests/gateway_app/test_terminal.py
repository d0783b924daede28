"""What commands for operators share: a name for the history, a question that only a yes answers, figures."""

import io

import pytest
from django.core.management import CommandError, call_command
from django.core.management.base import OutputWrapper
from django.db import OperationalError

from gateway_app import terminal
from tests.support.stub_cluster import StubCluster


class Terminal(io.StringIO):
    """Somebody who types."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("error", [KeyError("getpwuid(): uid not found: 12345"), OSError("no such user")])
def test_a_user_without_a_name_is_unknown(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def nobody() -> str:
        raise error

    monkeypatch.setattr("getpass.getuser", nobody)
    assert terminal.author() == "cli:unknown"


@pytest.mark.parametrize(
    ("typed", "agreed"), [("y\n", True), ("Yes \n", True), ("n\n", False), ("\n", False), ("", False)]
)
def test_only_a_yes_is_one(monkeypatch: pytest.MonkeyPatch, typed: str, agreed: bool) -> None:
    monkeypatch.setattr("sys.stdin", Terminal(typed))
    out = io.StringIO()
    if agreed:
        terminal.confirm(OutputWrapper(out), "Drain: worker_1")
    else:
        with pytest.raises(CommandError, match=r"^nothing has been changed$"):
            terminal.confirm(OutputWrapper(out), "Drain: worker_1")
    assert out.getvalue() == "Drain: worker_1? [y/N] "


def test_a_pipe_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    out = io.StringIO()
    with pytest.raises(CommandError, match="no terminal to ask at; add --yes"):
        terminal.confirm(OutputWrapper(out), "Drain: worker_1")
    assert out.getvalue() == ""


def test_the_figures_of_a_gateway_or_why_there_are_none() -> None:
    with StubCluster() as cluster:
        stats, whose = terminal.gateway_stats(terminal.gateway_url(cluster.url.removeprefix("http://")))
    assert stats is not None and len(stats["workers"]) == 3
    assert whose == cluster.url
    stats, whose = terminal.gateway_stats(cluster.url)
    assert (stats, whose) == (None, f"{cluster.url} (connection refused)")
    with pytest.raises(CommandError, match="'ftp://x' is not an address"):
        terminal.gateway_url("ftp://x")


@pytest.mark.parametrize("command", [("operate", "drain", "worker_1", "--yes"), ("canary", "abort", "--yes")])
def test_a_database_that_is_away_is_named_with_the_fix(
    db: None, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    def away(**_: object) -> None:
        raise OperationalError("could not\nconnect")

    monkeypatch.setattr("gateway_app.operating.actions.recorded", away)
    monkeypatch.setattr("gateway_app.canaries.canary.recorded", away)
    with pytest.raises(CommandError, match=r"^the database does not answer \(could not connect\); check DATABASE_URL$"):
        call_command(*command, stdout=io.StringIO())
