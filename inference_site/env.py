"""Typed readers of environment variables: a bad value stops the process with a sentence that names it and the fix."""

import os
import secrets
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

from django.core.exceptions import ImproperlyConfigured

D = TypeVar("D", Path, None, Path | None)

TRUE = ("1", "true", "yes", "on")
FALSE = ("0", "false", "no", "off")


def text(name: str, default: str = "") -> str:
    """The variable without surrounding blanks; unset and empty both mean the default."""
    return os.environ.get(name, "").strip() or default


def choice(name: str, options: Sequence[str], default: str) -> str:
    value = text(name, default)
    if value not in options:
        raise ImproperlyConfigured(f"{name}={value!r} is not known. Set it to one of: {', '.join(options)}.")
    return value


def flag(name: str, default: bool) -> bool:
    value = text(name)
    if not value:
        return default
    if value.lower() not in TRUE + FALSE:
        raise ImproperlyConfigured(f"{name}={value!r} is neither yes nor no. Set it to 1 or 0.")
    return value.lower() in TRUE


def integer(name: str, default: int, minimum: int, maximum: int) -> int:
    value = text(name, str(default))
    try:
        number = int(value)
    except ValueError:
        number = minimum - 1
    if not minimum <= number <= maximum:
        raise ImproperlyConfigured(f"{name}={value!r} is no whole number from {minimum} to {maximum}. Set such a one.")
    return number


def names(name: str, default: Sequence[str] = ()) -> list[str]:
    """A comma-separated list; empty items are dropped."""
    return [item.strip() for item in text(name).split(",") if item.strip()] or list(default)


def origins(name: str) -> list[str]:
    """A comma-separated list of origins, as CSRF_TRUSTED_ORIGINS wants them: with their scheme."""
    found = names(name)
    for origin in found:
        if not origin.startswith(("http://", "https://")):
            raise ImproperlyConfigured(f"{name} holds {origin!r} without a scheme. Write it as https://{origin}.")
    return found


def path(name: str, default: D, base: Path) -> Path | D:
    """A file or directory, or the default; a relative one counts from `base`, wherever the process was started."""
    value = text(name)
    return (base / Path(value).expanduser()) if value else default


def database(name: str, default: str, base: Path) -> dict[str, Any]:
    """Django's settings of one database, from sqlite:///relative, sqlite:////absolute or postgres://user:pw@host/name."""
    value = text(name, default)
    forms = (
        "sqlite:///db.sqlite3 (in the project), sqlite:////var/lib/x.sqlite3 or postgres://user:password@host:5432/name"
    )
    try:
        url = urlsplit(value)
        port = url.port
    except ValueError as exc:
        raise ImproperlyConfigured(f"{name} cannot be read ({exc}). Write it as {forms}.") from None
    # The password is never repeated in an error.
    shown = f"{url.scheme}://…{url.path}"
    if url.scheme == "sqlite":
        if url.netloc or len(url.path) < 2 or url.query:
            raise ImproperlyConfigured(f"{name}={shown!r} names no SQLite file. Write it as {forms}.")
        return {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": str(base / unquote(url.path[1:])),
            # Readers never wait for a writer, and a writer queues for its turn instead of failing half-way.
            "OPTIONS": {
                "timeout": 5,
                "transaction_mode": "IMMEDIATE",
                "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
            },
            "CONN_MAX_AGE": 0,
        }
    if url.scheme in ("postgres", "postgresql"):
        if len(url.path) < 2 or "/" in url.path[1:]:
            raise ImproperlyConfigured(f"{name}={shown!r} names no database. Write it as {forms}.")
        return {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": unquote(url.path[1:]),
            "USER": unquote(url.username or ""),
            "PASSWORD": unquote(url.password or ""),
            "HOST": unquote(url.hostname or ""),
            "PORT": str(port or ""),
            "OPTIONS": {"connect_timeout": "5", **dict(parse_qsl(url.query))},
            "CONN_MAX_AGE": 0,
        }
    raise ImproperlyConfigured(f"{name} has the scheme {url.scheme!r}, which is not supported. Write it as {forms}.")


def kept_secret(file: Path) -> str:
    """The secret in `file`, made on first use; of several processes that start at once, all get the same one."""
    try:
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            descriptor, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")  # mode 0600
            try:
                with os.fdopen(descriptor, "w") as stream:
                    stream.write(secrets.token_urlsafe(50))
                os.link(temporary, file)  # fails if another process was first: then its secret counts
            except FileExistsError:
                pass
            finally:
                Path(temporary).unlink()
        found = file.read_text().strip()
    except OSError as exc:
        raise ImproperlyConfigured(
            f"The generated SECRET_KEY cannot be kept in {file} ({exc.strerror or exc})."
            " Set STATE_DIR to a directory that this user may write, or set SECRET_KEY."
        ) from None
    if len(found) < 32:
        raise ImproperlyConfigured(f"{file} holds no usable secret key. Delete it, and a new one is made.")
    return found
