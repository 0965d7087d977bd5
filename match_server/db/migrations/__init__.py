"""Migrations of the schema (Alembic).

Alembic is imported where a migration runs. It takes a tenth of a server's start, and a database
that is up to date needs none of it.
"""

import re
from functools import cache
from importlib.metadata import version
from pathlib import Path

from sqlalchemy import Connection, column, inspect, select, table

from match_server.db.database import Database, sqlite_path
from match_server.db.tables import Table
from shared.errors import ConfigurationError, Unavailable

_HALF = (
    "it is half of one version and half of another. Another program has changed it, or it was "
    "copied in parts. Go back to a backup"
)
_MISFIT = re.compile(r"already exists|no such (table|column)|does not exist|duplicate column")
_SCRIPTS = Path(__file__).parent / "versions"
_REVISIONS = select(table("alembic_version", column("version_num")).c.version_num)
_SQLITE = b"SQLite format 3\0"  # the first bytes of a database file


def migrate(database: Database, revision: str = "head") -> str:
    """Bring the database to `revision` (`base` drops all tables). Returns its revision.

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
    """As `migrate`, inside a transaction of `Database.connection`."""
    current = current_on(connection)
    require_known(current)
    if revision == "head" and current == head_revision():
        return head_revision()
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    if is_older(revision, current):
        command.downgrade(config, revision)
    else:
        command.upgrade(config, revision)
    return current_on(connection) or "base"


def current_revision(database: Database) -> str | None:
    """The revision of the database; None before the first migration."""
    with database.read() as session:
        return current_on(session.connection())


def current_on(connection: Connection) -> str | None:
    """As `current_revision`, on a connection. Raises ConfigurationError if there are several."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    revisions = connection.scalars(_REVISIONS).all()
    if len(revisions) > 1:
        raise ConfigurationError(f"the database names several versions of itself: {_HALF}")
    return revisions[0] if revisions else None


def require_tables(database: Database) -> None:
    """Raises ConfigurationError if a table of this version is missing."""
    with database.read() as session:
        there = inspect(session.connection()).get_table_names()
    missing = sorted(Table.metadata.tables.keys() - set(there))
    if missing:
        raise ConfigurationError(f"the database lacks {', '.join(missing)}: {_HALF}")


@cache
def known_revisions() -> tuple[str, ...]:
    """The revisions that this code knows, newest first: the numbers of its scripts.

    Read once, because /readyz needs no key.
    """
    return tuple(sorted((script.name[:4] for script in _SCRIPTS.glob("[0-9]*.py")), reverse=True))


def head_revision() -> str:
    """The revision that this code needs."""
    return known_revisions()[0]


def require_known(current: str | None) -> None:
    """Raises ConfigurationError if a newer version of Muster has migrated the database."""
    if current is not None and current not in known_revisions():
        raise ConfigurationError(
            f"the database is at migration {current!r}, which this version {version('muster')} "
            f"does not know (it ends at {head_revision()!r}): a newer version has migrated it. "
            "Install that version again, or go back to a backup from before"
        )


def require_database(file: Path | None) -> None:
    """Raises ConfigurationError if the file exists and is no database of SQLite."""
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
        raise ConfigurationError(f"{file} is not an SQLite database, or it is damaged")


def is_older(revision: str, current: str | None) -> bool:
    """Whether `revision` is older than `current`. Raises ConfigurationError if it is unknown."""
    if revision == "head":
        return False
    newest_first = [*known_revisions(), "base"]
    if revision not in newest_first:
        raise ConfigurationError(
            f"there is no migration {revision!r}; known are {', '.join(newest_first)} and head"
        )
    return newest_first.index(revision) > newest_first.index(current or "base")
