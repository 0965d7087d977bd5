"""The database's shape, version by version (Alembic), packaged with the server."""

import re
from functools import cache
from importlib.metadata import version
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect

from match_server.db.database import Database, sqlite_path
from match_server.db.tables import Table
from shared.errors import ConfigurationError, Unavailable

_HALF = (
    "it is half of one version and half of another. Something other than Muster has changed it, or "
    "it was copied in parts. Go back to a backup"
)
_MISFIT = re.compile(r"already exists|no such (table|column)|does not exist|duplicate column")
_SQLITE = b"SQLite format 3\0"  # how such a file begins


def migrate(database: Database, revision: str = "head") -> str:
    """Bring the database to `revision` (`base` takes everything away); answers where it is.

    All steps run in one transaction: a failed migration leaves the database as it was.
    """
    file = sqlite_path(database.url)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
    require_database(file)
    try:
        with database.connection() as connection:
            return migrate_on(connection, revision)
    except Unavailable as error:
        reason = str(getattr(error.__cause__, "orig", ""))
        if _MISFIT.search(reason):
            raise ConfigurationError(
                f"the database cannot be brought to another version ({reason}): {_HALF}"
            ) from error
        raise


def migrate_on(connection: Connection, revision: str) -> str:
    """`migrate` as a part of a transaction that `Database.connection` began."""
    config = _config()
    config.attributes["connection"] = connection
    current = current_on(connection)
    require_known(current)
    if revision == "head" and current == head_revision():
        return head_revision()
    if is_older(revision, current):
        command.downgrade(config, revision)
    else:
        command.upgrade(config, revision)
    return current_on(connection) or "base"


def current_revision(database: Database) -> str | None:
    """The version that the database has; None before the first migration."""
    with database.read() as session:
        return current_on(session.connection())


def current_on(connection: Connection) -> str | None:
    """`current_revision` as this connection sees it. ConfigurationError where it has several."""
    revisions = MigrationContext.configure(connection).get_current_heads()
    if len(revisions) > 1:
        raise ConfigurationError(f"the database names several versions of itself: {_HALF}")
    return revisions[0] if revisions else None


def require_tables(database: Database) -> None:
    """Raises ConfigurationError where tables of the database's version are missing."""
    with database.read() as session:
        there = inspect(session.connection()).get_table_names()
    missing = sorted(Table.metadata.tables.keys() - set(there))
    if missing:
        raise ConfigurationError(f"the database lacks {', '.join(missing)}: {_HALF}")


@cache
def known_revisions() -> tuple[str, ...]:
    """The versions that this code knows, newest first; read once, because /readyz needs no key."""
    return tuple(one.revision for one in ScriptDirectory.from_config(_config()).walk_revisions())


def head_revision() -> str:
    """The version that this code needs."""
    return known_revisions()[0]


def require_known(current: str | None) -> None:
    """Raises ConfigurationError when a newer version has brought the database to its shape."""
    if current is not None and current not in known_revisions():
        raise ConfigurationError(
            f"the database is at migration {current!r}, which this version {version('muster')} "
            f"does not know (it ends at {head_revision()!r}): a newer one has written it. Install "
            "that one again, or start with a copy from before"
        )


def require_database(file: Path | None) -> None:
    """Raises ConfigurationError when there is a file, of SQLite, that is no database."""
    if file is None:
        return
    try:
        with file.open("rb") as opened:
            start = opened.read(len(_SQLITE))
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be read: {error.strerror}") from error
    if start not in (b"", _SQLITE):
        raise ConfigurationError(f"{file} is no SQLite database, or a damaged one")


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.set_main_option("path_separator", "os")
    return config


def is_older(revision: str, current: str | None) -> bool:
    """Whether going to `revision` would be a way back. ConfigurationError for an unknown one."""
    if revision == "head":
        return False
    newest_first = [*known_revisions(), "base"]
    if revision not in newest_first:
        raise ConfigurationError(
            f"there is no migration {revision!r}; there are {', '.join(newest_first)} and head"
        )
    return newest_first.index(revision) > newest_first.index(current or "base")
