"""The one seam to SQLAlchemy: an engine, sessions to read and to write, errors translated."""

import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import URL, Connection, create_engine, event, make_url
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError
from sqlalchemy.orm import Session

from match_server.prepared import Parameter, Prepared, Statement
from shared.errors import Conflict, MusterError, Unavailable

_BUSY_TIMEOUT_MS = 10_000
_NO_ANSWER = "the database does not answer: locked, full or not reachable; try again later"
_CONNECTIONS = 300  # kept open at most: one for each thread that a worker can have, and some


_SHORTEST_LIST = 8


class Reader(Protocol):
    """What answers a select: a session, or the database itself (see `Database.execute`)."""

    def execute(self, statement: Any, params: Any, /) -> Iterable[Any]: ...


class Database:
    """Sessions over one database.

    SQLite runs with a write-ahead log, so readers never wait; a write takes the write lock when
    it begins (a transaction that read first and wrote later could otherwise fail as stale), and
    `synchronous=FULL` puts the log on the disk before a commit returns: what was answered is
    kept, also when the power fails. SQLite has one writer at a time and lets the others sleep
    and try again; so those of this process queue here instead, and each goes on at once.
    """

    def __init__(self, url: str | URL) -> None:
        self.url = make_url(url)
        # A connection a thread; parameters hold templates and names, so errors never show them.
        self._engine = create_engine(
            self.url, hide_parameters=True, pool_size=_CONNECTIONS, pool_use_lifo=True
        )
        dbapi: Any = self._engine.dialect.loaded_dbapi
        self._driver_error: type[Exception] = dbapi.Error
        self._prepared: dict[tuple[Statement, int], Prepared] = {}
        self._turn = threading.Lock()
        self._writer = self._engine.execution_options(muster_writes=True)
        if self.is_sqlite:
            event.listen(self._engine, "connect", _prepare_sqlite)
            event.listen(self._engine, "begin", _begin_sqlite)

    @property
    def is_sqlite(self) -> bool:
        return self.url.get_backend_name() == "sqlite"

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A session that sees one state of the database and changes nothing."""
        with _translated(), Session(self._engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A transaction: committed durably on leaving, rolled back when anything is raised."""
        with (
            self._turn_to_write(),
            _translated(),
            Session(self._writer, expire_on_commit=False) as session,
            session.begin(),
        ):
            yield session

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
        with _translated():
            connection = self._engine.raw_connection()
            try:
                return prepared.rows(connection.cursor(), params)
            except self._driver_error as error:
                raise Unavailable(_NO_ANSWER) from error
            finally:
                connection.close()

    @contextmanager
    def _turn_to_write(self) -> Iterator[None]:
        if not self.is_sqlite:
            yield
            return
        if not self._turn.acquire(timeout=_BUSY_TIMEOUT_MS / 1e3):
            raise Unavailable(_NO_ANSWER)
        try:
            yield
        finally:
            self._turn.release()

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """A bare connection in a write transaction, for migrations."""
        with _translated(), self._writer.begin() as connection:
            yield connection

    def close(self) -> None:
        """Close all connections; needed before a process forks."""
        self._engine.dispose()


def sqlite_path(url: URL) -> Path | None:
    """The file of an SQLite URL; None for other databases and for memory."""
    if url.get_backend_name() != "sqlite" or not url.database or url.database == ":memory:":
        return None
    return Path(url.database)


def _prepare_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # transactions are begun below, not by the driver
    for pragma in (
        # 8 KiB pages hold seven templates where 4 KiB pages hold three with much room wasted.
        "page_size = 8192",
        "journal_mode = WAL",
        "synchronous = FULL",
        "foreign_keys = ON",
        f"busy_timeout = {_BUSY_TIMEOUT_MS}",
        "secure_delete = ON",  # an erased template leaves no bytes in free pages
    ):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    writes: Any = connection.get_execution_options().get("muster_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except MusterError:
        raise
    except IntegrityError as error:
        raise Conflict("another request has just stored something that contradicts this") from error
    except OperationalError as error:
        raise Unavailable(_NO_ANSWER) from error
    except DBAPIError as error:
        raise Unavailable("the database failed; see the server's log") from error


def _padded(params: Mapping[str, Parameter]) -> tuple[Mapping[str, Parameter], int]:
    """Lists filled up with their last value, so that few lengths (8, 16, 32 …) are compiled."""
    length = 0
    padded = dict(params)
    for name, value in params.items():
        if not isinstance(value, str | int):
            length = max(_SHORTEST_LIST, 1 << (len(value) - 1).bit_length())
            padded[name] = [*value, *[value[-1]] * (length - len(value))]
    return padded, length
