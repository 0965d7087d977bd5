"""The differences between SQLite and PostgreSQL: engines, connections, and how a write begins."""

import sqlite3
import time
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, InvalidatePoolError, NoSuchModuleError

from match_server.db.text_search import FOLDED, folded
from shared.errors import ConfigurationError

BUSY_TIMEOUT_MS = 10_000  # how long a write waits for earlier writes

SQLITE_CONNECTIONS = 300  # kept open at most: more than a worker has threads
_KEPT_CONNECTIONS = 5  # to PostgreSQL, by each process; more are open only while in use
_PING_AFTER_S = 1.0

_POSTGRESQL_CONNECT = {
    "connect_timeout": 5,
    "application_name": "muster",
    # A server that vanished is noticed within half a minute.
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
_POSTGRESQL_SESSION = (
    f"SET lock_timeout = {BUSY_TIMEOUT_MS}",
    # A process that hangs during a write must not block all others.
    "SET idle_in_transaction_session_timeout = '60s'",
    "SET TIME ZONE 'UTC'",
    # A confirmed write is on the disk; a stronger setting than `on` stays as it is.
    "SELECT set_config('synchronous_commit', 'on', false) "
    "WHERE current_setting('synchronous_commit') = 'off'",
)


def parsed_url(url: str | URL) -> URL:
    """The URL with its driver. Raises ConfigurationError for a database that is not supported."""
    try:
        parsed = make_url(url)
    except ArgumentError:  # whose text may show a password
        raise ConfigurationError(f"database_url: invalid URL; {_EXAMPLES}") from None
    except ValueError:  # of the port
        raise ConfigurationError(
            f"database_url: the port is no number; write several hosts as {SEVERAL_HOSTS}"
        ) from None
    if parsed.drivername in ("postgres", "postgresql"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername not in ("sqlite", "postgresql+psycopg"):
        raise ConfigurationError(f"database_url: unknown driver {parsed.drivername!r}; {_EXAMPLES}")
    if parsed.drivername == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise ConfigurationError(
            f"database_url: a database in memory would be another one in each process; {_EXAMPLES}"
        )
    return parsed


SEVERAL_HOSTS = (
    "postgresql://USER:PASSWORD@/DATABASE?host=ONE:5432&host=TWO:5432"
    "&target_session_attrs=read-write"
)
_EXAMPLES = "write sqlite:///FILE or postgresql+psycopg://USER:PASSWORD@HOST/DATABASE"


def sqlite_path(url: URL) -> Path | None:
    """The file of an SQLite URL; None for other databases."""
    if url.get_backend_name() != "sqlite" or not url.database:
        return None
    return Path(url.database)


def open_engine(url: URL, connections: int) -> Engine:
    """An engine whose connections are set up for durability. It does not connect yet.

    `connections` is the highest number of connections to PostgreSQL. Errors never show parameters,
    because these hold templates and names.
    """
    if url.get_backend_name() == "sqlite":
        engine = create_engine(
            url, hide_parameters=True, pool_size=SQLITE_CONNECTIONS, pool_use_lifo=True
        )
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    kept = min(_KEPT_CONNECTIONS, connections)
    try:
        engine = create_engine(
            url,
            hide_parameters=True,
            pool_size=kept,
            max_overflow=connections - kept,
            pool_timeout=BUSY_TIMEOUT_MS / 1e3,
            pool_use_lifo=True,
            connect_args={
                name: value for name, value in _POSTGRESQL_CONNECT.items() if name not in url.query
            },
        )
    except NoSuchModuleError:
        raise ConfigurationError(f"database_url: {_EXAMPLES}") from None
    event.listen(engine, "connect", _prepare_postgresql)
    _ping_idle_connections(engine)
    return engine


def read_options(url: URL) -> dict[str, Any]:
    """Execution options of a session that sees one state of the database and changes nothing."""
    if url.get_backend_name() == "sqlite":
        return {}  # with a write-ahead log every transaction is like that
    return {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}


def let_wait(connection: Connection) -> None:
    """Let this transaction be idle for longer than the timeout for processes that hang."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 0")


def _prepare_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # `_begin_sqlite` begins transactions, not the driver
    for pragma in (
        # 8 KiB pages hold seven templates where 4 KiB pages hold three with much room wasted.
        "page_size = 8192",
        "journal_mode = WAL",
        "synchronous = FULL",
        "foreign_keys = ON",
        f"busy_timeout = {BUSY_TIMEOUT_MS}",
        "secure_delete = ON",  # free pages hold no bytes of erased templates
    ):
        connection.execute(f"PRAGMA {pragma}")
    connection.create_function(FOLDED, 1, folded, deterministic=True)


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get("muster_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _prepare_postgresql(connection: Any, _record: object) -> None:
    connection.autocommit = True  # a setting made in a transaction would end with it
    try:
        for statement in _POSTGRESQL_SESSION:
            connection.execute(statement)
    except connection.Error:
        connection.close()  # the pool does not know it yet
        raise
    connection.autocommit = False


def _ping_idle_connections(engine: Engine) -> None:
    """Ping the server before an idle connection is used again.

    After a restart of PostgreSQL the first ping that fails empties the pool.
    """

    def note_idle(_connection: object, record: Any) -> None:
        record.info["idle_since_s"] = time.monotonic()

    def ping(connection: Any, record: Any, _proxy: object) -> None:
        since_s = record.info.get("idle_since_s", time.monotonic())
        if time.monotonic() - since_s < _PING_AFTER_S:
            return
        dialect: Any = engine.dialect
        try:
            dialect.do_ping(connection)
        except dialect.loaded_dbapi.Error:
            raise InvalidatePoolError from None

    event.listen(engine, "checkin", note_idle)
    event.listen(engine, "checkout", ping)
