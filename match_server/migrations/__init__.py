"""The database's shape, version by version (Alembic), packaged with the server."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from match_server.database import Database, sqlite_path
from shared.errors import ConfigurationError


def migrate(database: Database, revision: str = "head") -> str:
    """Bring the database to `revision` (`base` takes everything away); answers where it is.

    All steps run in one transaction: a failed migration leaves the database as it was.
    """
    file = sqlite_path(database.url)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
    with database.connection() as connection:
        config = _config()
        config.attributes["connection"] = connection
        if _is_older(config, revision, _current(connection)):
            command.downgrade(config, revision)
        else:
            command.upgrade(config, revision)
        return _current(connection) or "base"


def current_revision(database: Database) -> str | None:
    """The version that the database has; None before the first migration."""
    with database.read() as session:
        return _current(session.connection())


def head_revision() -> str:
    """The version that this code needs."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    return head or "base"


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.set_main_option("path_separator", "os")
    return config


def _current(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _is_older(config: Config, revision: str, current: str | None) -> bool:
    if revision == "head":
        return False
    newest_first = [
        script.revision for script in ScriptDirectory.from_config(config).walk_revisions()
    ]
    newest_first.append("base")
    if revision not in newest_first:
        raise ConfigurationError(
            f"there is no migration {revision!r}; there are {', '.join(newest_first)} and head"
        )
    return newest_first.index(revision) > newest_first.index(current or "base")
