"""The outbox's file: its tables, and how it is opened when the disk is full or the file damaged."""

import errno
import logging
import shutil
import sqlite3
from pathlib import Path

from shared.clock import SystemClock
from shared.errors import ConfigurationError, Unavailable

log = logging.getLogger(__name__)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS probe (
    sequence INTEGER PRIMARY KEY,
    probe_id TEXT NOT NULL UNIQUE,
    body BLOB NOT NULL,
    put_at_s REAL NOT NULL  -- on the scale of tally.lived_s
);
CREATE TABLE IF NOT EXISTS refusal (
    sequence INTEGER PRIMARY KEY,
    probe_id TEXT NOT NULL,
    code TEXT,
    message TEXT,
    refused_at TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS tally (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    last_sequence INTEGER NOT NULL DEFAULT 0,
    bytes INTEGER NOT NULL DEFAULT 0,
    acknowledged INTEGER NOT NULL DEFAULT 0,
    refused INTEGER NOT NULL DEFAULT 0,
    dropped INTEGER NOT NULL DEFAULT 0,
    lived_s REAL NOT NULL DEFAULT 0  -- how long this outbox has been open in all
);
INSERT OR IGNORE INTO tally (id) VALUES (1);
PRAGMA user_version = 1;
"""
_SMALLEST_BYTES = 64 * 1024  # SQLite needs some 32 KiB beside a database to open it


class DiskFull(Exception):
    """The file cannot be opened before there is room on the disk."""


def open_file(path: Path) -> sqlite3.Connection:
    """Opens or creates the file. One that is no database is moved aside: a box must go on."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return _connect(path)
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorname", "") not in ("SQLITE_NOTADB", "SQLITE_CORRUPT"):
            if shutil.disk_usage(path.parent).free < _SMALLEST_BYTES:
                raise DiskFull("the disk is full") from error
            raise Unavailable(f"the outbox {path} cannot be opened: {error}") from error
        aside = path.with_name(f"{path.name}.damaged-{int(SystemClock().now().timestamp())}")
        path.rename(aside)
        for companion in ("-wal", "-shm"):
            path.with_name(path.name + companion).unlink(missing_ok=True)
        log.error("The outbox %s is damaged (%s): kept as %s, a new one begins", path, error, aside)
        return _connect(path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull("the disk is full") from error
        raise ConfigurationError(f"the outbox cannot be kept in {path.parent}: {error}") from error


def _connect(path: Path) -> sqlite3.Connection:
    path.touch(mode=0o600)  # templates are biometric data; SQLite's other files take this mode over
    path.chmod(0o600)
    connection = sqlite3.connect(path, timeout=10, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA journal_size_limit = 4194304")
        connection.execute("PRAGMA cache_size = -2048")
        connection.executescript(_SCHEMA)
    except sqlite3.Error:
        connection.close()
        raise
    return connection
