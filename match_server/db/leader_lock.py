"""Leader election: of the processes that share a database, one at a time holds a lock.

The lock ends with the process that holds it. So another process can take it at once after a crash,
and nothing is written to the database.
"""

import fcntl
import os
from pathlib import Path
from typing import Protocol

from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError

from match_server.db.database import Database, sqlite_path


class LeaderLock(Protocol):
    """A lock that one process at a time holds. Used by one thread at a time."""

    def acquire(self) -> bool:
        """Take the lock if it is free. Returns whether this process holds it now."""
        ...

    def release(self) -> None:
        """Let another process take the lock. Does nothing in a process that does not hold it."""
        ...


def leader_lock(database: Database, name: str, folder: Path) -> LeaderLock:
    """The lock of this name, for all processes that share the database.

    SQLite: a lock on a file beside the database. PostgreSQL: an advisory lock of a session.
    """
    if database.is_sqlite:
        file = sqlite_path(database.url)
        return _FileLock((folder if file is None else file.parent) / f"{name}.turn")
    return _AdvisoryLock(database, name)


class _FileLock:
    def __init__(self, file: Path) -> None:
        self._file = file
        self._descriptor: int | None = None

    def acquire(self) -> bool:
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

    def release(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


class _AdvisoryLock:
    def __init__(self, database: Database, name: str) -> None:
        self._database = database
        self._name = {"name": f"muster/{name}"}
        self._connection: Connection | None = None

    def acquire(self) -> bool:
        try:
            if self._connection is not None:
                self._connection.execute(text("SELECT 1"))  # fails when the session has ended
                return True
            connection = self._database.own_connection()
            acquired = connection.scalar(_LOCK, self._name)
        except SQLAlchemyError:
            self.release()
            return False
        if not acquired:
            connection.close()
            return False
        self._connection = connection
        return True

    def release(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        try:
            connection.execute(_UNLOCK, self._name)
        except SQLAlchemyError:
            connection.invalidate()  # else the pool could keep it together with its lock
        connection.close()


_LOCK = text("SELECT pg_try_advisory_lock(hashtextextended(:name, 0))")
_UNLOCK = text("SELECT pg_advisory_unlock(hashtextextended(:name, 0))")
