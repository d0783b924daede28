"""A database that goes away and comes back while others look at it.

Its path is a link that changes in one step. A file that is moved leaves a moment in which nothing is there, and whoever
looks then makes an empty database in its place.
"""

from pathlib import Path


def real_file(database: Path) -> Path:
    """Where the rows are."""
    return database.parent / "rows" / database.name


def take_away(database: Path) -> None:
    """What is at its path cannot be opened as a file from now on."""
    _lead_to(database, database.parent)


def bring_back(database: Path) -> None:
    """The rows are at its path again."""
    _lead_to(database, real_file(database))


def _lead_to(database: Path, target: Path) -> None:
    link = database.with_name("next")
    link.symlink_to(target)
    link.replace(database)
