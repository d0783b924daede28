"""A database file of a test's own, seen by all threads, and what tests on an event loop do with it."""

import asyncio

from django.db import connection, connections


class database_file:
    """Points the default database of all threads at a file, as DATABASE_URL would."""

    def __init__(self, file):
        self.file = file

    def __enter__(self):
        self.before = connections.settings["default"]
        self.connection = connections["default"]
        connections.settings["default"] = {**self.before, "NAME": str(self.file)}
        del connections["default"]

    def __exit__(self, *exc):
        connections["default"].close()
        connections.settings["default"] = self.before
        connections["default"] = self.connection


async def in_thread(function, *args, **kwargs):
    def closing():
        try:
            return function(*args, **kwargs)
        finally:
            connection.close()

    return await asyncio.to_thread(closing)
