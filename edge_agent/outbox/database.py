"""The outbox's file: its tables, and how it is opened when the disk is full or the file damaged.

Beside it lies a small file with the last number that was given out. It is there for the day on
which the database is damaged, or has lost its newest part: numbers never go back.
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
from edge_agent.outbox.encryption import Open
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
_ASIDE: Final = ".damaged-"
_MISSES: Final = 500  # in a row: some 600,000 numbers
_SMALLEST_BYTES: Final = 64 * 1024  # SQLite needs some 32 KiB beside a database to open it


class TakesNothing(Exception):
    """The disk is full, read-only or broken: the file cannot be opened at the moment."""


def open_file(path: Path, read: Open) -> sqlite3.Connection:
    """Opens or creates the file. One that is no database is set aside: a box must go on.

    `read` opens the probes that can be saved of it.

    Raises TakesNothing where time or a person may help, ConfigurationError for a folder that
    cannot be used, Unavailable for other faults.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return _connect(path)
    except sqlite3.DatabaseError as error:
        if is_damage(error):
            return begin_anew(path, error, read)
        why = _why_nothing(path.parent, error)
        if why is not None:
            raise TakesNothing(why) from error
        raise Unavailable(f"the outbox {path} cannot be opened: {error}") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise TakesNothing("the disk is full") from error
        if error.errno in TAKES_NOTHING:
            raise TakesNothing(os.strerror(error.errno).lower()) from error
        raise ConfigurationError(f"the outbox cannot be kept in {path.parent}: {error}") from error


def begin_anew(path: Path, damage: sqlite3.Error, read: Open) -> sqlite3.Connection:
    """Sets a damaged file aside and opens a new one with what can still be read of the old.

    Only the newest damaged file is kept: what is in it is biometric data. Raises as `open_file`.
    """
    aside = path.with_name(f"{path.name}{_ASIDE}{int(SystemClock().now().timestamp())}")
    try:
        for older in path.parent.glob(f"{path.name}{_ASIDE}*"):
            older.unlink()
        for companion in ("-wal", ""):  # the journal belongs to it: its newest part may be whole
            with suppress(FileNotFoundError):
                path.with_name(path.name + companion).rename(f"{aside}{companion}")
        path.with_name(f"{path.name}-shm").unlink(missing_ok=True)
    except OSError as error:
        raise TakesNothing(str(error)) from error
    connection = open_file(path, read)
    saved = _salvage(aside, connection, read)
    log.error(
        "The outbox %s is damaged (%s): kept as %s; a new one goes on with the %d waiting probes"
        " that could be read",
        path,
        damage,
        aside,
        saved,
    )
    return connection


def is_damage(error: sqlite3.Error) -> bool:
    """Whether the file is not what was written, rather than the disk unwilling."""
    name = str(getattr(error, "sqlite_errorname", ""))
    return name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB"))


class LastNumber:
    """The last number given out, in a file of its own, written over in place.

    It is not synced: it outlives the process at once, and a power cut after some seconds. Where
    it cannot be written, the database alone knows the number.
    """

    def __init__(self, outbox: Path) -> None:
        self._path = outbox.with_name(f"{outbox.name}.number")
        self._file: int | None = None

    def read(self) -> int:
        """0 where there is none."""
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


def _why_nothing(folder: Path, error: sqlite3.Error) -> str | None:
    """Why the disk takes nothing, where that is what is wrong."""
    disk = os.statvfs(folder)
    if disk.f_flag & os.ST_RDONLY:
        return "the disk is read-only"
    if disk.f_bavail * disk.f_frsize < _SMALLEST_BYTES:
        return "the disk is full"
    name = str(getattr(error, "sqlite_errorname", ""))
    return str(error) if name.startswith(("SQLITE_IOERR", "SQLITE_FULL")) else None


def _salvage(damaged: Path, connection: sqlite3.Connection, read: Open) -> int:
    """Copies the probes that can be read, and the tally; answers how many probes."""
    saved = 0
    try:
        with closing(sqlite3.connect(damaged)) as source:
            connection.execute("BEGIN IMMEDIATE")
            for row in _readable(source, read):
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
        log.error("Nothing can be read of the damaged %s: %s", damaged, error)
        return 0
    return saved


def _readable(source: sqlite3.Connection, read: Open) -> Iterator[tuple[Any, ...]]:
    """The whole probes of a damaged file, in order; what cannot be read is stepped over."""
    query = "SELECT sequence, probe_id, body, put_at_s FROM probe WHERE sequence > ?"
    last = misses = 0
    while misses < _MISSES:
        try:
            for sequence, probe_id, body, put_at_s in source.execute(query, (last,)):
                message = ProbeMessage.model_validate_json(read(sequence, probe_id, body))
                if (message.sequence, message.probe_id) != (sequence, probe_id):
                    raise sqlite3.DataError("this was never written here")
                last, misses = sequence, 0
                yield sequence, probe_id, body, float(put_at_s)
        except (sqlite3.Error, ValidationError, TypeError, AttributeError, MusterError):
            last += 1 + misses**2 // 64  # by ones at first, then in longer and longer steps
            misses += 1
        else:
            return


def _connect(path: Path) -> sqlite3.Connection:
    path.touch(mode=0o600)  # templates are biometric data; SQLite's other files take this mode over
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
