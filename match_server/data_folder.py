"""The data folder: creating it, checking whose it is, and the secret in it that signs sessions."""

import fcntl
import os
import secrets
import stat
from pathlib import Path
from typing import IO

from match_server.db.database import sqlite_path
from match_server.db.engines import parsed_url
from match_server.db.migrations import require_database
from match_server.settings import Settings
from shared.commands import installed
from shared.errors import ConfigurationError
from shared.users import user_name

_SECRET_FILE = "page-secret"  # noqa: S105  # the file's name
_SECRET_BYTES = 32
_UNIT = Path("/etc/systemd/system/match-server.service")


class NoData(ConfigurationError):
    """The settings name a folder or a database that holds no data of a server."""


def make_data_folder(folder: Path) -> None:
    """Creates the data folder, private to this user. Raises ConfigurationError."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except FileExistsError as error:
        raise ConfigurationError(f"the data folder {folder} is no folder: give another") from error
    except OSError as error:
        raise ConfigurationError(
            f"the data folder {folder} cannot be made: {error.strerror}"
        ) from error
    require_own(folder)


def require_data_folder(settings: Settings) -> None:
    """Raises ConfigurationError unless there is a folder with a database that this user may use."""
    folder = settings.data_dir
    file = sqlite_path(parsed_url(settings.sqlalchemy_url))
    if not _is_folder(folder) or (file is not None and not _has_content(file)):
        raise no_data(settings)
    require_own(folder)
    require_database(file)


def require_own(folder: Path) -> None:
    """Raises ConfigurationError where this user cannot write to the folder, or is root by mistake.

    A file that root creates in the folder of another user (a journal of the database) locks the
    server of that user out.
    """
    if os.statvfs(folder).f_flag & os.ST_RDONLY:
        raise ConfigurationError(
            f"the data folder {folder} is on a file system that is mounted read-only: mount it "
            "writable, or give another --data-dir"
        )
    unwritable = not os.access(folder, os.R_OK | os.W_OK | os.X_OK)
    secret = None if unwritable else _status(folder / _SECRET_FILE)
    uid = folder.stat().st_uid if secret is None else secret.st_uid
    if unwritable or (os.geteuid() == 0 and uid != 0 and secret is not None):
        name = user_name(uid)
        raise ConfigurationError(
            f"{folder} is the data folder of the user {name}, and this is {user_name()}: "
            + (
                "call `sudo match-server …`, which acts as that user"
                if is_service_installed()
                else f"run this as that user (sudo runuser -u {name} -- …), or give another "
                "--data-dir"
            )
        )


def is_service_installed() -> bool:
    """Whether this machine runs a match server as a service of systemd."""
    return _UNIT.exists()


def no_data(settings: Settings) -> NoData:
    """Returns the error to raise where there is no server's data, with what to do about it."""
    where = f"there is no server's data in {settings.data_dir.absolute()}"
    if settings.database_url is not None and settings.data_dir.is_dir():
        where = "the database of database_url is empty"
    if is_service_installed() and not installed():
        return NoData(f"{where}: for the service of this machine, call `sudo match-server …`")
    return NoData(
        f"{where}: give the --data-dir, or the --config, of the server that you mean; "
        "`match-server serve` makes a new one"
    )


def page_secret(folder: Path) -> bytes:
    """Returns the random secret that signs page sessions; creates it at the first start."""
    file = folder / _SECRET_FILE
    try:
        with os.fdopen(os.open(file, os.O_RDWR | os.O_CREAT, 0o600), "r+b", 0) as opened:
            fcntl.flock(opened, fcntl.LOCK_EX)  # another process may be creating it
            secret = opened.read()
            if not secret:  # the file is new, or the process that created it was killed
                secret = _write_secret(opened)
    except OSError as error:  # a full disk, most often
        raise ConfigurationError(f"{file} cannot be written: {error.strerror}") from error
    if len(secret) < _SECRET_BYTES:
        raise ConfigurationError(f"{file} is damaged: delete it, and everybody signs in again")
    return secret


def _write_secret(file: IO[bytes]) -> bytes:
    secret = secrets.token_bytes(_SECRET_BYTES)
    try:
        file.write(secret)
        os.fsync(file.fileno())
    except OSError:
        os.ftruncate(file.fileno(), 0)  # the next start creates a new secret
        raise
    return secret


def _is_folder(folder: Path) -> bool:
    status = _status(folder)
    if status is not None and not stat.S_ISDIR(status.st_mode):
        raise ConfigurationError(f"the data folder {folder} is no folder: give another")
    return status is not None


def _has_content(file: Path) -> bool:
    status = _status(file)
    return status is not None and status.st_size > 0


def _status(path: Path) -> os.stat_result | None:
    """Returns None where the path does not exist. ConfigurationError if this user may not look."""
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
