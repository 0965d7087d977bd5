"""The outbox's file: its tables, and how it is opened, also on a full disk or after damage.

A small file beside it has the last sequence number. Where the database is damaged or has lost its
newest part, numbers still do not go back.
"""

import errno
import logging
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from edge_agent.config.key_file import TAKES_NOTHING
from edge_agent.outbox.encryption import Decrypt
from shared.clock import SystemClock
from shared.errors import ConfigurationError, MusterError, Unavailable
from shared.wire.messages import ProbeMessage

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
"""
_DAMAGED: Final = ".damaged-"
_MAX_MISSES: Final = 500  # in a row: some 600,000 numbers
_MIN_FREE_BYTES: Final = 64 * 1024  # SQLite needs some 32 KiB to open a database


class DiskUnavailable(Exception):
    """The disk is full, read-only or broken, so the file cannot be opened at the moment."""


def open_file(path: Path, decrypt: Decrypt) -> sqlite3.Connection:
    """Opens or creates the file. A damaged file is renamed and replaced by a new one.

    `decrypt` is used for the probes that are saved from a damaged file. Raises DiskUnavailable
    where a later attempt or a person may help, ConfigurationError for a folder that cannot be
    used, Unavailable for other faults.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return _connect(path)
    except sqlite3.DatabaseError as error:
        if is_damage(error):
            return replace_damaged(path, error, decrypt)
        why = _disk_problem(path.parent, error)
        if why is not None:
            raise DiskUnavailable(why) from error
        raise Unavailable(f"the outbox {path} cannot be opened: {error}") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskUnavailable("the disk is full") from error
        if error.errno in TAKES_NOTHING:
            raise DiskUnavailable(os.strerror(error.errno).lower()) from error
        raise ConfigurationError(f"the outbox cannot be kept in {path.parent}: {error}") from error


def replace_damaged(path: Path, damage: sqlite3.Error, decrypt: Decrypt) -> sqlite3.Connection:
    """Renames a damaged file and opens a new one with the probes that can still be read.

    Only the newest damaged file is kept, because it holds biometric data. Raises as `open_file`.
    """
    renamed = path.with_name(f"{path.name}{_DAMAGED}{int(SystemClock().now().timestamp())}")
    try:
        for older in path.parent.glob(f"{path.name}{_DAMAGED}*"):
            older.unlink()
        for companion in ("-wal", ""):  # the newest part of the log may be whole
            with suppress(FileNotFoundError):
                path.with_name(path.name + companion).rename(f"{renamed}{companion}")
        path.with_name(f"{path.name}-shm").unlink(missing_ok=True)
    except OSError as error:
        raise DiskUnavailable(str(error)) from error
    connection = open_file(path, decrypt)
    saved = _salvage(renamed, connection, decrypt)
    log.error(
        "Replaced the damaged outbox %s (%s): the old file is kept as %s; the new one has the %d"
        " waiting probes that could be read",
        path,
        damage,
        renamed,
        saved,
    )
    return connection


def is_damage(error: sqlite3.Error) -> bool:
    """Returns whether the file itself is damaged, rather than the disk full or read-only."""
    name = str(getattr(error, "sqlite_errorname", ""))
    return name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB"))


class LastNumber:
    """The last sequence number, in a small file that is overwritten in place.

    The file is not synced: it survives the end of the process at once, and a power cut after some
    seconds. Where it cannot be written, only the database has the number.
    """

    def __init__(self, outbox: Path) -> None:
        self._path = outbox.with_name(f"{outbox.name}.number")
        self._file: int | None = None

    def read(self) -> int:
        """Returns 0 where there is no number."""
        try:
            return int(self._path.read_text(encoding="ascii"))
        except (OSError, ValueError):
            return 0

    def write(self, number: int) -> None:
        with suppress(OSError):
            if self._file is None:
                self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            os.pwrite(self._file, b"%020d\n" % number, 0)

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _disk_problem(folder: Path, error: sqlite3.Error) -> str | None:
    """Returns what is wrong with the disk; None where the error has another cause."""
    disk = os.statvfs(folder)
    if disk.f_flag & os.ST_RDONLY:
        return "the disk is read-only"
    if disk.f_bavail * disk.f_frsize < _MIN_FREE_BYTES:
        return "the disk is full"
    name = str(getattr(error, "sqlite_errorname", ""))
    return str(error) if name.startswith(("SQLITE_IOERR", "SQLITE_FULL")) else None


def _salvage(damaged: Path, connection: sqlite3.Connection, decrypt: Decrypt) -> int:
    """Copies the tally and the probes that can be read; returns the number of probes."""
    saved = 0
    try:
        with closing(sqlite3.connect(damaged)) as source:
            connection.execute("BEGIN IMMEDIATE")
            for row in _readable(source, decrypt):
                saved += connection.execute(
                    "INSERT OR IGNORE INTO probe (sequence, probe_id, body, put_at_s)"
                    " VALUES (?, ?, ?, ?)",
                    row,
                ).rowcount
            columns = "last_sequence, acknowledged, refused, dropped, lived_s"
            with suppress(sqlite3.Error):
                tally = source.execute(f"SELECT {columns} FROM tally").fetchone()  # noqa: S608
                connection.execute(f"UPDATE tally SET ({columns}) = (?, ?, ?, ?, ?)", tally)  # noqa: S608
            connection.execute(
                "UPDATE tally SET"
                " last_sequence = max(last_sequence, (SELECT ifnull(max(sequence), 0) FROM probe)),"
                " bytes = (SELECT ifnull(sum(length(body)), 0) FROM probe)"
            )
            connection.execute("COMMIT")
    except (sqlite3.Error, OSError) as error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        log.error("Nothing in the damaged file %s can be read: %s", damaged, error)
        return 0
    return saved


def _readable(source: sqlite3.Connection, decrypt: Decrypt) -> Iterator[tuple[Any, ...]]:
    """Yields the whole probes of a damaged file in order, and skips the others."""
    query = "SELECT sequence, probe_id, body, put_at_s FROM probe WHERE sequence > ?"
    last = misses = 0
    while misses < _MAX_MISSES:
        try:
            for sequence, probe_id, body, put_at_s in source.execute(query, (last,)):
                message = ProbeMessage.model_validate_json(decrypt(sequence, probe_id, body))
                if (message.sequence, message.probe_id) != (sequence, probe_id):
                    raise sqlite3.DataError("a row that this program never wrote")
                last, misses = sequence, 0
                yield sequence, probe_id, body, float(put_at_s)
        except (sqlite3.Error, ValidationError, TypeError, AttributeError, MusterError):
            last += 1 + misses**2 // 64  # first by one, then in growing steps
            misses += 1
        else:
            return


def _connect(path: Path) -> sqlite3.Connection:
    path.touch(mode=0o600)  # biometric data; SQLite's other files get the same mode
    path.chmod(0o600)
    connection = sqlite3.connect(path, timeout=10, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA secure_delete = ON")
        connection.execute("PRAGMA journal_size_limit = 4194304")
        connection.execute("PRAGMA cache_size = -2048")
        connection.executescript(_SCHEMA)
    except sqlite3.Error:
        connection.close()
        raise
    return connection
