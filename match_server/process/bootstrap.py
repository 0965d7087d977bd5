"""Prepares a server's data before a process uses it: folder, migrations, secret."""

import contextlib
from collections.abc import Iterator

from match_server.data_folder import make_data_folder, no_data, page_secret, require_data_folder
from match_server.db.database import Database
from match_server.db.engines import SEVERAL_HOSTS
from match_server.db.migrations import current_revision, migrate
from match_server.services.audit.chain import append_notes
from match_server.services.auth.keys import Keys
from match_server.settings import Settings
from shared.clock import SystemClock
from shared.errors import StorageReadOnly, Unavailable

_TAKES_NO_WRITES = (
    "this PostgreSQL takes no writes: it is a standby, or is set to read-only. Promote it, or give "
    f"the URL of all hosts: {SEVERAL_HOSTS}"
)


def prepare(settings: Settings) -> None:
    """Creates the data folder if there is none, and brings the database up to date."""
    make_data_folder(settings.data_dir)
    _bring_up_to_date(settings)


def require_data(settings: Settings) -> None:
    """Brings the database of an existing server up to date; raises NoData where there is none.

    Commands about a server's data call this and not `prepare`: with a wrong folder they must not
    create a second server.
    """
    require_data_folder(settings)
    with _opened(settings) as database:
        empty = current_revision(database) is None
    if empty:
        raise no_data(settings)
    _bring_up_to_date(settings)


@contextlib.contextmanager
def open_keys(settings: Settings) -> Iterator[Keys]:
    """Opens the keys of an existing server, without its other services. Raises NoData."""
    with open_database(settings) as database:
        yield Keys(database, SystemClock())


@contextlib.contextmanager
def open_database(settings: Settings) -> Iterator[Database]:
    """Opens the database of an existing server. Raises NoData."""
    require_data(settings)
    with contextlib.closing(Database(settings.sqlalchemy_url, append_notes)) as database:
        yield database


def _bring_up_to_date(settings: Settings) -> None:
    with _opened(settings) as database:
        migrate(database)
    page_secret(settings.data_dir)


@contextlib.contextmanager
def _opened(settings: Settings) -> Iterator[Database]:
    """Opens the database; an error of the connection names the reason that the driver gives."""
    with contextlib.closing(Database(settings.sqlalchemy_url, append_notes)) as database:
        try:
            yield database
        except StorageReadOnly as error:
            if database.is_sqlite:
                raise
            raise Unavailable(_TAKES_NO_WRITES) from error
        except Unavailable as error:
            raise Unavailable(f"{error.message} ({_reason(error)})") from error


def _reason(error: Unavailable) -> str:
    """Returns the driver's message; it is shown to the operator at a terminal only."""
    cause = error.__cause__
    message = str(getattr(cause, "orig", None) or cause).strip()
    return message.splitlines()[0] if message else "no reason is given"
