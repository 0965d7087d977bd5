"""Sessions that read and write the database. All other code uses SQLAlchemy through them."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from sqlalchemy import URL, Connection
from sqlalchemy.exc import OperationalError
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
from match_server.db.epochs import lock_writers, lock_writers_of_feed
from match_server.db.errors import invalid_value, translated, unavailable
from match_server.db.fast_sql import Parameter, Prepared, Statement
from match_server.db.write_lock import WriteLock
from shared.errors import Damaged, Unavailable

__all__ = ["Database", "Reader", "sqlite_path"]

CONNECTIONS = 20  # to PostgreSQL, at most, by one process
_SHRINK_TIMEOUT_MS = 200  # writers wait meanwhile
_UNKNOWN_IF_STORED = (
    "the connection to the database ended before it confirmed the write: check whether this is "
    "stored before you try again"
)
_LISTEN_S = 0.5
_SHORTEST_LIST = 8


BeforeCommit = Callable[[Session], None]
"""The last step of every write. It may read and write in the same transaction."""


@dataclass(frozen=True, slots=True)
class Connections:
    """The number of connections that this process has to the database."""

    in_use: int
    idle: int
    most: int  # open at the same time; beyond that a thread waits


class Reader(Protocol):
    """Runs a select: a session, or the database itself (see `Database.execute`)."""

    def execute(self, statement: Any, params: Any, /) -> Iterable[Any]: ...


class Database:
    """Sessions over one database, SQLite or PostgreSQL.

    On both there is one writer at a time. A writer gets the write lock before it reads anything, so
    what it reads does not change until its commit. The commit is on the disk before `write` ends.
    Writers of this process queue for a lock of their own, so they need one connection, and the
    next one starts at once (SQLite itself would sleep and try again). Readers never wait for
    writers.

    While one write takes long, at most `waiting_writers` threads wait for it, and further writes
    fail after a second. Else a locked database would block every thread, also those that only read.
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
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self._before_commit = before_commit
        self._engine = open_engine(self.url, connections)
        self._file = sqlite_path(self.url)
        self._most = connections if not self.is_sqlite else SQLITE_CONNECTIONS
        dbapi: Any = self._engine.dialect.loaded_dbapi
        self._driver_error: type[Exception] = dbapi.Error
        self._bad_value: type[Exception] = dbapi.DataError
        self._prepared: dict[tuple[Statement, int], Prepared] = {}
        self._cursors: deque[Any] = deque()  # of SQLite's driver, free, each with a connection
        self._write_lock = WriteLock(waiting_writers)
        self.commit_signal = CommitSignal(None if self.is_sqlite else self._listen)
        self._reader = self._engine.execution_options(**read_options(self.url))
        self._writer = self._engine.execution_options(muster_writes=True)

    def connections(self) -> Connections:
        pool = self._engine.pool
        if not isinstance(pool, QueuePool):
            return Connections(0, 0, 0)
        return Connections(pool.checkedout(), pool.checkedin(), self._most)

    @contextmanager
    def read(self, *, patient: bool = False) -> Iterator[Session]:
        """A session that sees one state of the database and changes nothing.

        With `patient`, minutes may pass between two statements.
        """
        with translated(self._file), Session(self._reader, expire_on_commit=False) as session:
            if patient:
                let_wait(session.connection())
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A transaction: committed durably on leaving, rolled back when anything is raised.

        `before_commit` is its last step: there the transaction gets its entry in the audit log.

        Raises Unavailable with `stored="unknown"` in its details when the connection broke during
        the commit: the database may have stored the transaction.
        """
        with (
            self._write_lock.held(),
            translated(self._file),
            Session(self._writer, expire_on_commit=False) as session,
        ):
            committing = False
            try:
                with session.begin():
                    if not self.is_sqlite:
                        lock_writers_of_feed(session.connection())
                    yield session
                    self._before_commit(session)
                    session.flush()
                    committing = True
            except OperationalError as error:
                if committing and error.connection_invalidated:
                    raise Unavailable(_UNKNOWN_IF_STORED, stored="unknown") from error
                raise
        self.commit_signal.notify()

    def execute(
        self, statement: Statement, params: Mapping[str, Parameter], /
    ) -> list[tuple[Any, ...]]:
        """The rows of one select, which sees everything committed before this call.

        For frequent queries: the statement is a constant, is compiled once and runs without a
        session. One parameter may be a list that is not empty, for `IN` (an expanding parameter).
        """
        params, length = _padded(params)
        prepared = self._prepared.get((statement, length))
        if prepared is None:
            prepared = Prepared(statement, self._engine.dialect, params)
            self._prepared[statement, length] = prepared
        if self.is_sqlite:
            return self._on_sqlite(prepared, params)
        with translated(self._file), self._cursor() as cursor:
            return prepared.rows(cursor, params)

    def _on_sqlite(
        self, prepared: Prepared, params: Mapping[str, Parameter]
    ) -> list[tuple[Any, ...]]:
        """Run a select on a connection that stays open, beside the pool.

        The pool's work at each use takes longer than SQLite needs to find a row by its key.
        """
        try:
            cursor = self._cursors.pop()
        except IndexError:
            cursor = self._new_cursor()
        try:
            rows = prepared.rows(cursor, params)
        except self._driver_error as error:
            cursor.connection.close()
            raise unavailable(error, self._file) from error
        self._cursors.append(cursor)
        return rows

    def _new_cursor(self) -> Any:
        with translated(self._file):
            connection = self._engine.raw_connection()
        connection.detach()
        driver: Any = connection.dbapi_connection
        return driver.cursor()

    @contextmanager
    def _cursor(self) -> Iterator[Any]:
        """A cursor of the driver, on a connection without a transaction."""
        try:
            connection = self._engine.raw_connection()
        except self._driver_error as error:
            raise unavailable(error, self._file) from error
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
            raise invalid_value() from error
        except self._driver_error as error:
            if not self.is_sqlite:
                connection.invalidate(error)
            raise unavailable(error, self._file) from error
        finally:
            connection.close()

    def _listen(self) -> Iterator[None]:
        """Gives the signal at each commit of any process. Its connection is not one of the pool."""
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

        A migration of SQLite copies a table and drops the old one. That must not delete the rows
        that refer to it, so foreign keys are off meanwhile and checked at the end.
        """
        with self._write_lock.held(), translated(self._file), self._writer.connect() as connection:
            driver: Any = connection.connection.dbapi_connection
            if self.is_sqlite:
                driver.execute("PRAGMA foreign_keys = OFF")
            try:
                with connection.begin():
                    if not self.is_sqlite:
                        lock_writers(connection)
                    if patient:
                        let_wait(connection)
                    yield connection
                    if self.is_sqlite:
                        _check_foreign_keys(connection)
            finally:
                if self.is_sqlite:
                    driver.execute("PRAGMA foreign_keys = ON")

    def settle_epoch(self) -> None:
        """Begin a new epoch of the feed, if it is due, without waiting for the next write."""
        if not self.is_sqlite:
            with self.connection() as connection:
                lock_writers_of_feed(connection)

    def shrink_log(self) -> bool:
        """Empty the write-ahead log of SQLite, which still holds the pages of deleted rows.

        Returns False when a reader prevents it; then try again. Other databases have no such log.
        """
        if not self.is_sqlite:
            return True
        with translated(self._file), self._cursor() as cursor:
            cursor.execute(f"PRAGMA busy_timeout = {_SHRINK_TIMEOUT_MS}")
            try:
                cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                ((busy, *_),) = cursor.fetchall()
            finally:
                cursor.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        return not busy

    def own_connection(self) -> Connection:
        """A connection without a transaction, for a lock that lasts as long as the connection."""
        return self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")

    def close(self) -> None:
        """Close all connections; needed before a process forks."""
        self.commit_signal.close()
        while self._cursors:
            self._cursors.pop().connection.close()
        self._engine.dispose()


def _check_foreign_keys(connection: Connection) -> None:
    """Raises Damaged if a row refers to a row that does not exist."""
    broken = connection.exec_driver_sql("PRAGMA foreign_key_check").first()
    if broken is not None:
        raise Damaged(f"rows of {broken[0]!r} would refer to rows that do not exist")


def _padded(params: Mapping[str, Parameter]) -> tuple[Mapping[str, Parameter], int]:
    """Lists extended with their last value to lengths of 8, 16, 32 …, and that length.

    So few variants of a statement are compiled.
    """
    length = 0
    padded = dict(params)
    for name, value in params.items():
        if not isinstance(value, str | int):
            length = max(_SHORTEST_LIST, 1 << (len(value) - 1).bit_length())
            padded[name] = [*value, *[value[-1]] * (length - len(value))]
    return padded, length
