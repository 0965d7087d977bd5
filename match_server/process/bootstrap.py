"""The data folder: made, migrated and completed before anything else happens."""

import contextlib
import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from match_server.db.database import Database, sqlite_path
from match_server.db.engines import parsed_url
from match_server.db.migrations import current_revision, migrate, require_database
from match_server.services.auth.keys import Keys
from match_server.settings import Settings
from shared.clock import SystemClock
from shared.commands import installed
from shared.errors import ConfigurationError, Unavailable
from shared.users import user_name

_SECRET_FILE = "page-secret"  # noqa: S105  # the file's name
_SECRET_BYTES = 32
_UNIT = Path("/etc/systemd/system/match-server.service")


class NoData(ConfigurationError):
    """There is no server's data where a command looks for it."""


def prepare(settings: Settings) -> None:
    """Create the data folder (private to this user) and bring the database up to date."""
    make_data_folder(settings.data_dir)
    _bring_up_to_date(settings)


def require_data(settings: Settings) -> None:
    """Bring the database of a server that exists up to date; raises NoData where there is none.

    For every command that is about data of a server: with a wrong folder it must not make another.
    """
    require_data_folder(settings)
    database = Database(settings.sqlalchemy_url)
    try:
        if current_revision(database) is None:
            raise NoData(_no_data(settings))
    except Unavailable as error:
        raise Unavailable(f"{error.message} ({_reason(error)})") from error
    finally:
        database.close()
    _bring_up_to_date(settings)


def require_data_folder(settings: Settings) -> None:
    """Raises ConfigurationError unless there is a folder with a database that this user may use."""
    folder = settings.data_dir
    file = sqlite_path(parsed_url(settings.sqlalchemy_url))
    if not _is_folder(folder) or (file is not None and not _has_content(file)):
        raise NoData(_no_data(settings))
    require_own(folder)
    require_database(file)


def is_service_installed() -> bool:
    """Whether this machine runs a match server as a service of systemd."""
    return _UNIT.exists()


def _no_data(settings: Settings) -> str:
    where = f"there is no server's data in {settings.data_dir.absolute()}"
    if settings.database_url is not None and settings.data_dir.is_dir():
        where = "the database of database_url is empty"
    if is_service_installed() and not installed():
        return f"{where}: for the service of this machine, call `sudo match-server …`"
    return (
        f"{where}: give the --data-dir, or the --config, of the server that you mean; "
        "`match-server serve` makes a new one"
    )


def _is_folder(folder: Path) -> bool:
    status = _status(folder)
    if status is not None and not stat.S_ISDIR(status.st_mode):
        raise ConfigurationError(f"the data folder {folder} is no folder: give another")
    return status is not None


def _has_content(file: Path) -> bool:
    status = _status(file)
    return status is not None and status.st_size > 0


def _status(path: Path) -> os.stat_result | None:
    """What the system says of a path; None where nothing is. ConfigurationError if it may not."""
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ConfigurationError(
            f"this user ({user_name()}) may not look into {path.parent} ({error.strerror}): run "
            "this as the user of the server"
            + (" (`sudo match-server …` does)" if is_service_installed() else "")
        ) from error


def require_own(folder: Path) -> None:
    """Raises ConfigurationError where this user would do harm in the folder, or can do nothing.

    What root makes in the folder of another user (a journal of the database) locks its server out.
    """
    if os.statvfs(folder).f_flag & os.ST_RDONLY:
        raise ConfigurationError(
            f"the data folder {folder} is on a file system that is mounted read-only: mount it "
            "writable, or give another --data-dir"
        )
    unwritable = not os.access(folder, os.R_OK | os.W_OK | os.X_OK)
    mark = None if unwritable else _status(folder / _SECRET_FILE)
    owner = folder.stat().st_uid if mark is None else mark.st_uid
    if unwritable or (os.geteuid() == 0 and owner != 0 and mark is not None):
        name = user_name(owner)
        raise ConfigurationError(
            f"{folder} is the data folder of the user {name}, and this is {user_name()}: "
            + (
                "call `sudo match-server …`, which acts as that user"
                if is_service_installed()
                else f"run this as that user (sudo runuser -u {name} -- …), or give another "
                "--data-dir"
            )
        )


def _bring_up_to_date(settings: Settings) -> None:
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
    require_own(folder)


def _reason(error: Unavailable) -> str:
    """What the driver says of it, for who starts a command: nobody else gets to read it."""
    cause = error.__cause__
    told = str(getattr(cause, "orig", None) or cause).strip()
    return told.splitlines()[0] if told else "no reason is given"


@contextlib.contextmanager
def open_keys(settings: Settings) -> Iterator[Keys]:
    """The keys of a server that exists, for commands: nothing else is loaded for them."""
    with open_database(settings) as database:
        yield Keys(database, SystemClock())


@contextlib.contextmanager
def open_database(settings: Settings) -> Iterator[Database]:
    """The database of a server that exists, for commands. Raises NoData."""
    require_data(settings)
    database = Database(settings.sqlalchemy_url)
    try:
        yield database
    finally:
        database.close()


def page_secret(folder: Path) -> bytes:
    """The random secret of this installation that signs page sessions; made at the first start."""
    file = folder / _SECRET_FILE
    try:
        with os.fdopen(os.open(file, os.O_RDWR | os.O_CREAT, 0o600), "r+b", 0) as opened:
            fcntl.flock(opened, fcntl.LOCK_EX)  # another process may be making it
            secret = opened.read()
            if not secret:  # it is new, or who made it was killed
                secret = _written_secret(opened)
    except OSError as error:  # a full disk, most often
        raise ConfigurationError(f"{file} cannot be written: {error.strerror}") from error
    if len(secret) < _SECRET_BYTES:
        raise ConfigurationError(f"{file} is damaged: delete it, and everybody signs in again")
    return secret


def _written_secret(file: IO[bytes]) -> bytes:
    secret = secrets.token_bytes(_SECRET_BYTES)
    try:
        file.write(secret)
        os.fsync(file.fileno())
    except OSError:
        os.ftruncate(file.fileno(), 0)  # as if it had never been begun
        raise
    return secret
