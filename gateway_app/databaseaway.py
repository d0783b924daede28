"""A database that does not answer, in words."""

from __future__ import annotations


def reason_of(error: Exception) -> str:
    """What the driver says, in one line."""
    return " ".join(str(error).split()) or type(error).__name__


def does_not_answer(error: Exception, what_is_there: str = "") -> str:
    """A sentence with the reason and the fix; `what_is_there`: what cannot be had without it, as ", where …"."""
    return f"the database does not answer ({reason_of(error)}){what_is_there}; check DATABASE_URL"
