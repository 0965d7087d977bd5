"""The database file of one collection on the device: its tables, and how it is opened."""

import sqlite3
from pathlib import Path
from typing import Final

from shared.errors import Damaged, MusterError, Unavailable

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS person (
    number INTEGER PRIMARY KEY,
    sealed BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS template (
    number INTEGER PRIMARY KEY,
    person INTEGER NOT NULL,
    sealed BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS template_person ON template (person);
CREATE TABLE IF NOT EXISTS state (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    sealed BLOB NOT NULL
);
PRAGMA user_version = 1;
"""
_PRAGMAS: Final = (
    "page_size = 8192",
    "journal_mode = WAL",
    "synchronous = FULL",
    "secure_delete = ON",
    "cache_size = -1024",  # KiB: memory is scarce
)


def open_database(path: Path, max_bytes: int) -> sqlite3.Connection:
    """Returns a connection for one thread at a time. Only this user may read the file (0600).

    The file never grows beyond `max_bytes`, whatever a server sends. Raises Damaged where the file
    is no database, Unavailable where it cannot be opened now.
    """
    connection: sqlite3.Connection | None = None
    try:
        connection = sqlite3.connect(
            path, isolation_level=None, check_same_thread=False, timeout=10
        )
        path.chmod(0o600)
        for pragma in _PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")
        (page_bytes,) = connection.execute("PRAGMA page_size").fetchone()
        connection.execute(f"PRAGMA max_page_count = {max_bytes // page_bytes}")
        connection.executescript(_SCHEMA)
    except (sqlite3.Error, OSError) as error:
        if connection is not None:
            connection.close()
        raise as_error(path, error) from error
    return connection


def as_error(path: Path, error: sqlite3.Error | OSError) -> MusterError:
    """Returns Damaged for a damaged file, Unavailable for a full or busy disk."""
    message = f"the gallery {path}: {error}"
    if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
        message += "; free some space, or let it be larger (gallery.max_mib)"
    damaged = isinstance(error, sqlite3.DatabaseError)
    return (
        Damaged(message)
        if damaged and not isinstance(error, sqlite3.OperationalError)
        else Unavailable(message)
    )


def delete_database(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def empty(cursor: sqlite3.Cursor) -> None:
    for table in ("template", "person", "state"):
        cursor.execute(f"DELETE FROM {table}")  # noqa: S608  # constants
