"""Work that one process at a time does for all: who has the turn, and who gets it after a death."""

import fcntl
import os
from pathlib import Path
from typing import Protocol

from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError

from match_server.db.database import Database, sqlite_path


class Turn(Protocol):
    """The right to do something that only one process may do."""

    def mine(self) -> bool:
        """Whether this process has the turn; takes it when it is free."""
        ...

    def give_up(self) -> None:
        """Let another have it. A process that dies gives it up by that."""
        ...


def turn_at(database: Database, name: str, folder: Path) -> Turn:
    """The turn of that name among all processes that share a database.

    A lock on a file beside an SQLite database, an advisory lock of PostgreSQL: both end with the
    process that holds them, so there is no time to wait out after a crash, and nothing is written.
    """
    if database.is_sqlite:
        file = sqlite_path(database.url)
        return _FileTurn((folder if file is None else file.parent) / f"{name}.turn")
    return _PostgresTurn(database, name)


class _FileTurn:
    def __init__(self, file: Path) -> None:
        self._file = file
        self._descriptor: int | None = None

    def mine(self) -> bool:
        if self._descriptor is not None:
            return True
        descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        return True

    def give_up(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


class _PostgresTurn:
    def __init__(self, database: Database, name: str) -> None:
        self._database = database
        self._name = {"name": f"muster/{name}"}
        self._connection: Connection | None = None

    def mine(self) -> bool:
        try:
            if self._connection is not None:
                self._connection.execute(text("SELECT 1"))  # the lock lasts as long as this answers
                return True
            connection = self._database.own_connection()
            taken = connection.scalar(
                text("SELECT pg_try_advisory_lock(hashtextextended(:name, 0))"), self._name
            )
        except SQLAlchemyError:
            self.give_up()
            return False
        if not taken:
            connection.close()
            return False
        self._connection = connection
        return True

    def give_up(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.invalidate()  # closed for good, not kept in the pool with its lock
            connection.close()
