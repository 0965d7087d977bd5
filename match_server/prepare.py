"""The data folder: made, migrated and completed before anything else happens."""

import contextlib
import getpass
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from match_server.database import Database
from match_server.migrations import migrate
from match_server.services.law.keys import Keys
from match_server.settings import Settings
from shared.clock import SystemClock
from shared.errors import ConfigurationError, Unavailable

_SECRET_FILE = "page-secret"  # noqa: S105  # the file's name
_SECRET_BYTES = 32


def prepare(settings: Settings) -> None:
    """Create the data folder (private to this user) and bring the database up to date."""
    make_data_folder(settings.data_dir)
    database = Database(settings.sqlalchemy_url)
    try:
        migrate(database)
    except Unavailable as error:
        raise Unavailable(f"{error.message} ({_reason(error)})") from error
    finally:
        database.close()
    page_secret(settings.data_dir)


def make_data_folder(folder: Path) -> None:
    """Create the data folder, private to this user."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except FileExistsError as error:
        raise ConfigurationError(f"the data folder {folder} is no folder: give another") from error
    except OSError as error:
        raise ConfigurationError(
            f"the data folder {folder} cannot be made: {error.strerror}"
        ) from error
    if os.statvfs(folder).f_flag & os.ST_RDONLY:
        raise ConfigurationError(
            f"the data folder {folder} is on a file system that is mounted read-only: mount it "
            "writable, or give another --data-dir"
        )
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        raise ConfigurationError(
            f"this user ({getpass.getuser()}) may not write into the data folder {folder}: run "
            "this as the user of the server, or give another --data-dir"
        )


def _reason(error: Unavailable) -> str:
    """What the driver says of it, for who starts a command: nobody else gets to read it."""
    cause = error.__cause__
    told = str(getattr(cause, "orig", None) or cause).strip()
    return told.splitlines()[0] if told else "no reason is given"


@contextlib.contextmanager
def open_keys(settings: Settings) -> Iterator[Keys]:
    """The keys over a prepared data folder, for commands: nothing else is loaded for them."""
    with open_database(settings) as database:
        yield Keys(database, SystemClock())


@contextlib.contextmanager
def open_database(settings: Settings) -> Iterator[Database]:
    """The database of a prepared data folder, for commands."""
    prepare(settings)
    database = Database(settings.sqlalchemy_url)
    try:
        yield database
    finally:
        database.close()


def page_secret(folder: Path) -> bytes:
    """The random secret of this installation that signs page sessions; made at the first start."""
    file = folder / _SECRET_FILE
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        secret = file.read_bytes()
        if len(secret) < _SECRET_BYTES:
            raise ConfigurationError(
                f"{file} is damaged: delete it, and everybody signs in again"
            ) from None
        return secret
    try:
        with os.fdopen(descriptor, "wb") as opened:
            secret = secrets.token_bytes(_SECRET_BYTES)
            opened.write(secret)
            opened.flush()
            os.fsync(opened.fileno())
    except OSError as error:  # a full disk, most often
        file.unlink(missing_ok=True)
        raise ConfigurationError(f"{file} cannot be written: {error.strerror}") from error
    return secret
