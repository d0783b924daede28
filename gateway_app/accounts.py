"""The first administrator, so that a fresh installation can be configured at once."""

import secrets

from django.contrib.auth import get_user_model


def ensure_admin() -> str | None:
    """Makes the superuser "admin" if there is none, and returns its generated password: only its hash is kept."""
    users = get_user_model().objects
    # An ordinary account of that name belongs to somebody: it is not promoted behind their back.
    if users.filter(is_superuser=True).exists() or users.filter(username="admin").exists():
        return None
    password = secrets.token_urlsafe(12)
    users.create_superuser(username="admin", password=password)
    return password
