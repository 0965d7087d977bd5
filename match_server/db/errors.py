"""Errors of the database and its drivers, translated into the errors of this project."""

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, OperationalError
from sqlalchemy.exc import TimeoutError as NoConnectionFree

from shared.errors import (
    Conflict,
    MalformedInput,
    MusterError,
    StorageFull,
    StorageReadOnly,
    Unavailable,
)
from shared.files import FULL, no_storing

log = logging.getLogger(__name__)

NO_ANSWER = "the database does not answer: locked, full or not reachable; try again later"
_INVALID_VALUE = (
    "the database cannot hold a value: too long, too large, or with a NUL character in it"
)
_NOT_STORED = "the database cannot store this"
_SQLITE_DISK_ERRORS = frozenset(
    {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN}
)
_DISK_FULL, _READ_ONLY_TRANSACTION = "53100", "25006"  # SQLSTATE of PostgreSQL


@contextmanager
def translated(file: Path | None) -> Iterator[None]:
    """Translates errors of SQLAlchemy. `file` is the file of an SQLite database."""
    try:
        yield
    except MusterError:
        raise
    except IntegrityError as error:
        raise Conflict("another request has just stored something that contradicts this") from error
    except OperationalError as error:
        raise unavailable(error.orig or error, file) from error
    except NoConnectionFree as error:
        raise Unavailable(NO_ANSWER) from error
    except DataError as error:
        raise invalid_value() from error
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) == _READ_ONLY_TRANSACTION:
            raise unavailable(error.orig or error, file) from error
        # The text of the error may hold names, so it is not logged.
        state = getattr(error.orig, "sqlstate", None)
        kind = type(error.orig).__name__
        log.error("The database failed", extra={"error": kind, "state": state})
        raise Unavailable("the database failed; see the server's log") from error


def invalid_value() -> MalformedInput:
    """The error for a value that a column cannot hold."""
    return MalformedInput(_INVALID_VALUE)


def unavailable(error: Exception, file: Path | None) -> Unavailable:
    """The error for a driver's error: the disk is full or read-only, or there is no connection."""
    code = getattr(error, "sqlite_errorcode", None)
    state = getattr(error, "sqlstate", None)
    if code is None:
        if state == _DISK_FULL:
            return StorageFull(f"{_NOT_STORED}: {FULL}")
        if state == _READ_ONLY_TRANSACTION:
            return StorageReadOnly("the database is read-only at the moment; searches go on")
        return Unavailable(NO_ANSWER)
    if code & 0xFF == sqlite3.SQLITE_FULL:
        return StorageFull(f"{_NOT_STORED}: {FULL}")
    if code & 0xFF in _SQLITE_DISK_ERRORS and file is not None:  # SQLite does not say why
        return no_storing(file.parent, _NOT_STORED) or Unavailable(NO_ANSWER)
    return Unavailable(NO_ANSWER)
