"""The open file of an outbox: what happens to it when the disk is full or the file is damaged."""

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from edge_agent.outbox.database import (
    DiskUnavailable,
    LastNumber,
    is_damage,
    open_file,
    replace_damaged,
)
from edge_agent.outbox.encryption import ProbeEncryption, encrypt_stored
from shared.clock import Clock
from shared.errors import MusterError, StorageReadOnly
from shared.files import no_storing

log = logging.getLogger(__name__)

_RETRY_S: Final = 2.0
_MIN_REPLACE_S: Final = 60.0  # between two replacements of a damaged file
_TRUNCATE: Final = "PRAGMA wal_checkpoint(TRUNCATE)"
_TRUNCATE_S: Final = 10.0  # between two truncations of the write-ahead log


class OutboxFile:
    """Opens the file as soon as the disk allows it, and replaces it when it is damaged.

    The outbox calls it under its own lock. Raises Unavailable when the file cannot be opened for
    a reason that is neither the disk nor damage.
    """

    def __init__(self, path: Path, encryption: ProbeEncryption, clock: Clock) -> None:
        self._path = path
        self._encryption = encryption
        self._clock = clock
        self._last_number = LastNumber(path)
        self._opened: sqlite3.Connection | None = None  # None while the disk is too full for it
        self._retry_at_s: float | None = None  # set while the disk cannot be written
        self._problem = ""  # of the disk
        self._replaced_s: float | None = None  # when a damaged file was replaced last
        self._deleted = False  # rows were deleted since the log was truncated
        self._truncated_s = 0.0
        self._age_before_s = 0.0  # in earlier processes
        self._opened_s = clock.monotonic_s()
        self._open()

    @property
    def connection(self) -> sqlite3.Connection:
        if self._opened is None:
            raise sqlite3.OperationalError("not open yet: the disk cannot be written")
        return self._opened

    @property
    def is_open(self) -> bool:
        return self._opened is not None

    @property
    def must_wait(self) -> bool:
        """Whether the disk failed a moment ago, so that a new attempt is useless."""
        return self._retry_at_s is not None and self._clock.monotonic_s() < self._retry_at_s

    @property
    def trouble(self) -> str | None:
        """The problem of the disk as a sentence; None while it can be written."""
        if self._retry_at_s is None:
            return None
        return (
            f"The outbox {self._path} takes nothing ({self._problem}): probes are held in"
            f" memory; {self._advice}"
        )

    @property
    def age_s(self) -> float:
        """How long the outbox has been open, in all its processes."""
        return self._age_before_s + self._clock.monotonic_s() - self._opened_s

    def try_open(self) -> bool:
        """Opens the file if it is not open; returns False while that fails."""
        if self._opened is None and self._clock.monotonic_s() >= (self._retry_at_s or 0.0):
            self._open()
        return self._opened is not None

    def replace(self, damage: sqlite3.Error) -> bool:
        """Replaces a damaged file, at most once a minute; returns False for other errors."""
        now_s = self._clock.monotonic_s()
        if not is_damage(damage) or (
            self._replaced_s is not None and now_s - self._replaced_s < _MIN_REPLACE_S
        ):
            return False
        self._replaced_s = now_s
        self._close()
        try:
            self._use(replace_damaged(self._path, damage, self._encryption.decrypt))
        except (DiskUnavailable, MusterError, sqlite3.Error) as error:
            log.error("The damaged outbox %s cannot be replaced: %s", self._path, error)
            return False
        return True

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Cursor]:
        cursor = self.connection.cursor()
        cursor.execute("BEGIN IMMEDIATE")
        try:
            yield cursor
            cursor.execute("COMMIT")
        except BaseException:
            if self.connection.in_transaction:
                cursor.execute("ROLLBACK")
            raise
        finally:
            cursor.close()

    def write_last_number(self, number: int) -> None:
        self._last_number.write(number)

    def note_deleted(self) -> None:
        """Rows were deleted: `clean` truncates the log."""
        self._deleted = True

    def clean(self) -> None:
        """Truncates the log now and then, because it still has the deleted probes."""
        if self._deleted and self._clock.monotonic_s() - self._truncated_s >= _TRUNCATE_S:
            self._truncate()

    def close(self) -> None:
        self._close()
        self._last_number.close()

    def disk_failed(self, error: Exception) -> None:
        # SQLite reports a disk that became read-only as an I/O error.
        read_only = isinstance(no_storing(self._path.parent, "stored"), StorageReadOnly)
        self._problem = "the disk is read-only" if read_only else str(error)
        if self._retry_at_s is None:
            log.error(
                "The outbox %s takes nothing at the moment (%s): probes are held in memory and"
                " stored when it does; %s",
                self._path,
                self._problem,
                self._advice,
            )
        self._retry_at_s = self._clock.monotonic_s() + _RETRY_S

    def disk_works(self, stored: int) -> None:
        if self._retry_at_s is not None:
            log.warning("The outbox %s works again; %d probes stored", self._path, stored)
        self._retry_at_s = None

    @property
    def _advice(self) -> str:
        full = "full" in self._problem
        return "free some space" if full else "check the disk, it may be worn out"

    def _open(self) -> None:
        try:
            self._use(open_file(self._path, self._encryption.decrypt))
        except DiskUnavailable as error:
            self.disk_failed(error)
        except sqlite3.Error as error:
            if not self.replace(error):
                self._close()
                self.disk_failed(error)

    def _use(self, connection: sqlite3.Connection) -> None:
        """Continues with this file. No sequence number is used twice."""
        encrypt_stored(connection, self._encryption)
        self._opened = connection
        self._opened_s = self._clock.monotonic_s()
        self._truncate()  # a power cut may have left a log
        self._age_before_s, last = connection.execute(
            "SELECT lived_s, last_sequence FROM tally"
        ).fetchone()
        used = self._last_number.read()
        if used > last:
            connection.execute("UPDATE tally SET last_sequence = ?", (used,))
            log.warning(
                "The outbox %s has lost the probes after number %d; it continues after %d",
                self._path,
                last,
                used,
            )
        self.disk_works(0)

    def _close(self) -> None:
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def _truncate(self) -> None:
        self._truncated_s = self._clock.monotonic_s()
        with suppress(sqlite3.Error):  # on a full disk: what is stored stays stored
            (busy, *_) = self.connection.execute(_TRUNCATE).fetchone()
            self._deleted = bool(busy)
