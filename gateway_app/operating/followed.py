"""Whether a gateway follows what the command line has written to the database; in words, for who has written it."""

from __future__ import annotations

import time
from typing import Any

from django.db import Error as DatabaseUnavailable

from gateway_app.databaseaway import does_not_answer
from gateway_app.models import Revision
from gateway_app.operating.actions import Action
from gateway_app.probe import Answer, ask, open_session

PATIENCE_S = 10.0  # a gateway follows within a second; one whose machine stands still for a while, later
PAUSE_S = 0.05
TIMEOUT_S = 10.0


def followed(url: str, action: Action) -> tuple[bool, str]:
    """Waits until the gateway there follows the newest revision: whether it does, and a sentence part that says so, or
    why not and what becomes of the action then."""
    try:
        revision = Revision.objects.order_by("-id").values_list("id", flat=True).first() or 0
    except DatabaseUnavailable as error:  # what was done is done
        return False, f"whether a gateway follows is not known: {does_not_answer(error)}"
    deadline = time.monotonic() + PATIENCE_S
    with open_session() as session:
        while True:
            answer = ask(session, "GET", f"{url}/stats", timeout_s=TIMEOUT_S)
            gateway = _gateway(answer)
            if gateway is None:
                return False, f"no gateway answers at {url} ({answer.summary}). {_without_one(action)}"
            if gateway.get("revision", 0) >= revision:
                return True, f"the gateway at {url} follows"
            if time.monotonic() >= deadline:
                why = gateway.get("config_error") or "look at its log"
                return False, (
                    f"the gateway at {url} still follows revision {gateway.get('revision')}, not {revision}: {why}. It"
                    " is done once the gateway follows"
                )
            time.sleep(PAUSE_S)


def _gateway(answer: Answer) -> dict[str, Any] | None:
    found = (answer.data or {}).get("gateway") if answer.status == 200 else None
    return found if isinstance(found, dict) else None


def _without_one(action: Action) -> str:
    """What becomes of it where no gateway runs."""
    elsewhere = "Gateways that run elsewhere follow within a second; name one with --gateway to see it"
    if action.name in ("trip", "reset"):
        return (
            f"{elsewhere}. If none runs, nothing has happened: a breaker is a running gateway's, and one that starts"
            " has all of them closed"
        )
    return f"{elsewhere}. If none runs, it is done when one starts"
