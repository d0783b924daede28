"""What a cluster needs in its database: tables, an administrator, its workers; written at once, or when it is back."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fcntl import LOCK_EX, flock
from pathlib import Path

from django.core.management import call_command
from django.db import Error as DatabaseUnavailable
from django.db import connection
from django.db.migrations.executor import MigrationExecutor

from gateway_app.accounts import ensure_admin
from gateway_app.config import Address, register_workers
from gateway_app.databaseaway import reason_of

MIGRATION_LOCK_ID = 0x696E666572  # any number, the same in every process; "infer" in ASCII
RETRY_S = 1.0


class Preparation:
    """Prepares the database for these workers; `done` once it has. `say` is given sentences for the operator."""

    def __init__(self, workers: Sequence[Address], say: Callable[[str], None]) -> None:
        self.done = False
        self._workers = workers
        self._say = say
        self._reason = ""

    def begin(self) -> None:
        """Returns when it is done, or when the database is away; then it goes on trying in a thread."""
        self._attempt()
        if not self.done:
            threading.Thread(target=self._keep_trying, name="database", daemon=True).start()

    def _keep_trying(self) -> None:
        while not self.done:
            time.sleep(RETRY_S)
            self._attempt()

    def _attempt(self) -> None:
        try:
            password = prepare_database()
            if password is not None:
                self._say(f"Administrator made: user admin, password {password} (shown only this once)")
            # Once: a gateway that is started again must not undo what an operator has changed since.
            register_workers(self._workers)
        except (DatabaseUnavailable, OSError) as error:
            reason = reason_of(error)
            if reason != self._reason:
                self._reason = reason
                self._say(
                    f"The database does not answer ({reason}); check DATABASE_URL."
                    " Serving with the last good configuration until it does"
                )
        else:
            self.done = True
            if self._reason:
                self._say("The database has been prepared")
        finally:
            connection.close()


def prepare_database() -> str | None:
    """Brings the tables up to date and returns the password of an administrator made just now.

    Raises a database error, or OSError from beside an SQLite file.
    """
    with migration_lock():
        call_command("migrate", interactive=False, verbosity=0)
        return ensure_admin()


def needs_migration() -> bool:
    """Whether the database answers, but without the tables of this release."""
    try:
        executor = MigrationExecutor(connection)
        return bool(executor.migration_plan(executor.loader.graph.leaf_nodes()))
    except DatabaseUnavailable:
        return False


@contextmanager
def migration_lock() -> Iterator[None]:
    """One process at a time: two that start together on a fresh database would both create its tables."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(%s)", [MIGRATION_LOCK_ID])
            try:
                yield
            finally:
                cursor.execute("SELECT pg_advisory_unlock(%s)", [MIGRATION_LOCK_ID])
    else:
        database = Path(connection.settings_dict["NAME"])
        with database.with_name(database.name + ".lock").open("w") as lock:
            flock(lock, LOCK_EX)
            yield
