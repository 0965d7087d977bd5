"""The one seam to SQLAlchemy: sessions to read and to write, errors translated."""

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import URL, Connection
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, OperationalError
from sqlalchemy.exc import TimeoutError as NoConnectionFree
from sqlalchemy.orm import Session
from sqlalchemy.pool import QueuePool

from match_server.db.commit_signal import CHANNEL, CommitSignal
from match_server.db.engines import (
    BUSY_TIMEOUT_MS,
    SQLITE_CONNECTIONS,
    let_wait,
    open_engine,
    parsed_url,
    read_options,
    sqlite_path,
)
from match_server.db.fast_sql import Parameter, Prepared, Statement
from shared.errors import (
    Conflict,
    Damaged,
    MalformedInput,
    MusterError,
    StorageFull,
    StorageReadOnly,
    Unavailable,
)
from shared.files import FULL, no_storing

__all__ = ["Database", "Reader", "sqlite_path"]

log = logging.getLogger(__name__)

CONNECTIONS = 20  # to PostgreSQL, at most, by one process
_SHRINK_TIMEOUT_MS = 200  # writers wait meanwhile
_NO_ANSWER = "the database does not answer: locked, full or not reachable; try again later"
_NOT_KNOWN = (
    "the database went away before it said whether this is stored: look, before trying again"
)
_NO_ROOM = "the database cannot hold a value: too long, too large, or with a NUL character in it"
_LISTEN_S = 0.5
_LONG_S = 1.0  # that one write takes
_DISK_FAILS = frozenset({sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN})
_NOT_STORED = "the database cannot store this"
_DISK_FULL, _READ_ONLY_TRANSACTION = "53100", "25006"  # PostgreSQL's
_SHORTEST_LIST = 8


BeforeCommit = Callable[[Session], None]
"""The last step of every write. It may read and write in the same transaction."""


@dataclass(frozen=True, slots=True)
class Connections:
    """How many this process has to the database."""

    in_use: int
    idle: int
    most: int  # that it opens; beyond that it waits


class Reader(Protocol):
    """What answers a select: a session, or the database itself (see `Database.execute`)."""

    def execute(self, statement: Any, params: Any, /) -> Iterable[Any]: ...


class _WriteLock:
    """The right to write, which one thread of this process has at a time."""

    def __init__(self, waiting: int) -> None:
        self._lock = threading.Lock()
        self._waiting = threading.BoundedSemaphore(waiting)
        self._taken_s = 0.0  # when, the last time

    @contextmanager
    def held(self) -> Iterator[None]:
        """Raises Unavailable when the writes before take too long, or too many wait for one."""
        now_s = time.monotonic()
        until_s = now_s + BUSY_TIMEOUT_MS / 1e3
        while not self._lock.acquire(
            timeout=max(0.0, min(self._taken_s + _LONG_S, until_s) - now_s)
        ):
            now_s = time.monotonic()
            if now_s >= min(self._taken_s + _LONG_S, until_s):
                self._wait(until_s - now_s)
                break
        self._taken_s = time.monotonic()
        try:
            yield
        finally:
            self._lock.release()

    def _wait(self, most_s: float) -> None:
        if not self._waiting.acquire(blocking=False):
            raise Unavailable(_NO_ANSWER)
        try:
            if not self._lock.acquire(timeout=max(0.0, most_s)):
                raise Unavailable(_NO_ANSWER)
        finally:
            self._waiting.release()


class Database:
    """Sessions over one database, SQLite or PostgreSQL.

    There is one writer at a time, on both: it has the write lock before it reads anything, so
    that what it has read stays true until its commit, which is on the disk before it returns.
    The writers of this process queue here, so that one connection is enough for them and each
    goes on at once (SQLite would let them sleep and try again). Readers never wait for writers.

    While one write takes long, `waiting_writers` wait for it, and further ones are refused after a
    second: else a locked database would hold every thread, also those that only read.
    """

    def __init__(
        self,
        url: str | URL,
        before_commit: BeforeCommit,
        *,
        connections: int = CONNECTIONS,
        waiting_writers: int = 1000,
    ) -> None:
        self.url = parsed_url(url)
        self._before_commit = before_commit
        self._engine = open_engine(self.url, connections)
        self._file = sqlite_path(self.url)
        self._most = connections if not self.is_sqlite else SQLITE_CONNECTIONS
        dbapi: Any = self._engine.dialect.loaded_dbapi
        self._driver_error: type[Exception] = dbapi.Error
        self._bad_value: type[Exception] = dbapi.DataError
        self._prepared: dict[tuple[Statement, int], Prepared] = {}
        self._write_lock = _WriteLock(waiting_writers)
        self.commit_signal = CommitSignal(None if self.is_sqlite else self._listen)
        self._reader = self._engine.execution_options(**read_options(self.url))
        self._writer = self._engine.execution_options(muster_writes=True)

    @property
    def is_sqlite(self) -> bool:
        return self.url.get_backend_name() == "sqlite"

    def connections(self) -> Connections:
        pool = self._engine.pool
        if not isinstance(pool, QueuePool):
            return Connections(0, 0, 0)
        return Connections(pool.checkedout(), pool.checkedin(), self._most)

    @contextmanager
    def read(self, *, patient: bool = False) -> Iterator[Session]:
        """A session that sees one state of the database and changes nothing.

        `patient`: we may let the database wait for minutes between two statements.
        """
        with self._translated(), Session(self._reader, expire_on_commit=False) as session:
            if patient:
                let_wait(session.connection())
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A transaction: committed durably on leaving, rolled back when anything is raised.

        `before_commit` is its last step: there the transaction gets its entry in the audit log.

        Unavailable has `stored="unknown"` in its details when the connection broke after the
        commit was asked for: the database may have done it and had no time to say so.
        """
        with (
            self._write_lock.held(),
            self._translated(),
            Session(self._writer, expire_on_commit=False) as session,
        ):
            asked = False
            try:
                with session.begin():
                    yield session
                    self._before_commit(session)
                    session.flush()
                    asked = True
            except OperationalError as error:
                if asked and error.connection_invalidated:
                    raise Unavailable(_NOT_KNOWN, stored="unknown") from error
                raise
        self.commit_signal.notify()

    def execute(
        self, statement: Statement, params: Mapping[str, Parameter], /
    ) -> list[tuple[Any, ...]]:
        """The rows of one select by itself; it sees everything committed before this call.

        For what is asked often: a constant statement, compiled once, and run without a session. One
        parameter may be a list (for an `IN` of an expanding parameter), which is not empty.
        """
        params, length = _padded(params)
        prepared = self._prepared.get((statement, length))
        if prepared is None:
            prepared = Prepared(statement, self._engine.dialect, params)
            self._prepared[statement, length] = prepared
        with self._translated(), self._cursor() as cursor:
            return prepared.rows(cursor, params)

    @contextmanager
    def _cursor(self) -> Iterator[Any]:
        """A cursor of the driver's own, on a connection without a transaction."""
        try:
            connection = self._engine.raw_connection()
        except self._driver_error as error:
            raise _no_answer(error, self._file) from error
        driver: Any = connection.dbapi_connection
        try:
            if not self.is_sqlite:
                driver.autocommit = True  # one round trip instead of three
            yield connection.cursor()
            if not self.is_sqlite:
                driver.autocommit = False
        except self._bad_value as error:
            if not self.is_sqlite:
                driver.autocommit = False
            raise MalformedInput(_NO_ROOM) from error
        except self._driver_error as error:
            if not self.is_sqlite:
                connection.invalidate(error)
            raise _no_answer(error, self._file) from error
        finally:
            connection.close()

    def _listen(self) -> Iterator[None]:
        """Rings at each commit of any process; on a connection beside those of the pool."""
        try:
            connection = self._engine.raw_connection()
        except self._driver_error:
            return
        connection.detach()
        driver: Any = connection.dbapi_connection
        try:
            driver.autocommit = True
            driver.execute(f"LISTEN {CHANNEL}")
            yield
            while True:
                for _ in driver.notifies(timeout=_LISTEN_S, stop_after=1):
                    self.commit_signal.notify()
                yield
        except self._driver_error:
            return
        finally:
            connection.close()

    @contextmanager
    def connection(self, *, patient: bool = False) -> Iterator[Connection]:
        """A bare connection in a write transaction, for migrations. `patient` as in `read`.

        SQLite changes a table by copying it and dropping the old one, which must not take the rows
        with it that refer to it: foreign keys are looked at when all is done instead.
        """
        with self._write_lock.held(), self._translated(), self._writer.connect() as connection:
            driver: Any = connection.connection.dbapi_connection
            if self.is_sqlite:
                driver.execute("PRAGMA foreign_keys = OFF")
            try:
                with connection.begin():
                    if patient:
                        let_wait(connection)
                    yield connection
                    if self.is_sqlite:
                        _require_whole(connection)
            finally:
                if self.is_sqlite:
                    driver.execute("PRAGMA foreign_keys = ON")

    def shrink_log(self) -> bool:
        """Empty SQLite's write-ahead log, which still has the pages of what was deleted.

        Answers False when a reader is in the way: try again. Other databases have no such log.
        """
        if not self.is_sqlite:
            return True
        with self._translated(), self._cursor() as cursor:
            cursor.execute(f"PRAGMA busy_timeout = {_SHRINK_TIMEOUT_MS}")
            try:
                cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                ((busy, *_),) = cursor.fetchall()
            finally:
                cursor.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        return not busy

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except MusterError:
            raise
        except IntegrityError as error:
            raise Conflict(
                "another request has just stored something that contradicts this"
            ) from error
        except OperationalError as error:
            raise _no_answer(error.orig or error, self._file) from error
        except NoConnectionFree as error:
            raise Unavailable(_NO_ANSWER) from error
        except DataError as error:
            raise MalformedInput(_NO_ROOM) from error
        except DBAPIError as error:
            # Its text may hold names.
            state = getattr(error.orig, "sqlstate", None)
            kind = type(error.orig).__name__
            log.error("the database failed", extra={"error": kind, "state": state})
            raise Unavailable("the database failed; see the server's log") from error

    def own_connection(self) -> Connection:
        """A connection outside of transactions, for a lock that lasts as long as the caller's."""
        return self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")

    def close(self) -> None:
        """Close all connections; needed before a process forks."""
        self.commit_signal.close()
        self._engine.dispose()


def _require_whole(connection: Connection) -> None:
    """Raises Damaged unless every row refers to rows that are there."""
    broken = connection.exec_driver_sql("PRAGMA foreign_key_check").first()
    if broken is not None:
        raise Damaged(f"rows of {broken[0]!r} would be without what they refer to")


def _no_answer(error: Exception, file: Path | None) -> Unavailable:
    """What to say of a driver's error: which of the many ways in which a database fails it is."""
    code = getattr(error, "sqlite_errorcode", None)
    state = getattr(error, "sqlstate", None)
    if code is None:
        if state == _DISK_FULL:
            return StorageFull(f"{_NOT_STORED}: {FULL}")
        if state == _READ_ONLY_TRANSACTION:
            return StorageReadOnly("the database is read-only at the moment; searches go on")
        return Unavailable(_NO_ANSWER)
    if code & 0xFF == sqlite3.SQLITE_FULL:
        return StorageFull(f"{_NOT_STORED}: {FULL}")
    if code & 0xFF in _DISK_FAILS and file is not None:  # SQLite does not say why
        return no_storing(file.parent, _NOT_STORED) or Unavailable(_NO_ANSWER)
    return Unavailable(_NO_ANSWER)


def _padded(params: Mapping[str, Parameter]) -> tuple[Mapping[str, Parameter], int]:
    """Lists filled up with their last value, so that few lengths (8, 16, 32 …) are compiled."""
    length = 0
    padded = dict(params)
    for name, value in params.items():
        if not isinstance(value, str | int):
            length = max(_SHORTEST_LIST, 1 << (len(value) - 1).bit_length())
            padded[name] = [*value, *[value[-1]] * (length - len(value))]
    return padded, length
