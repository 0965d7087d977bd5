"""Migrations: each step up and down works, and the result equals the tables of the code."""

from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Integer, inspect

from match_server.db import migrations
from match_server.db.database import Database
from match_server.db.migrations import current_revision, head_revision, known_revisions, migrate
from match_server.db.tables import Counter, Table
from match_server.services.audit.chain import append_notes
from match_server.services.change_feed import next_number
from shared.errors import ConfigurationError
from tests.support.every_table import contents, fill, tables_of


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request, tmp_path, empty_database):
    if request.param == "sqlite":
        made = Database(f"sqlite:///{tmp_path / 'deep' / 'muster.db'}", append_notes)
    else:
        made = Database(empty_database("postgresql"), append_notes)
    yield made
    made.close()


def _held(database):
    with database.read() as session:
        connection = session.connection()
        return contents(connection, tables_of(connection))


def test_up_down_and_up_again(database):
    assert migrate(database) == head_revision()
    with database.write() as session:
        assert [next_number(session, "changes") for _ in range(3)] == [1, 2, 3]
    assert migrate(database, "base") == "base"
    with database.read() as session:
        assert set(inspect(session.connection()).get_table_names()) <= {
            "alembic_version",
            "sqlite_sequence",
        }
    assert migrate(database) == head_revision()
    with database.write() as session:
        values = {row.name: row.value for row in session.query(Counter)}
    assert (values["changes"], values["events"]) == (0, 0)


def test_every_step_down_and_up_keeps_the_rows_that_both_shapes_can_hold(database):
    oldest_first = known_revisions()[::-1]
    migrate(database, oldest_first[0])
    with database.connection() as connection:
        fill(connection, tables_of(connection))
    before = _held(database)
    for revision in [*oldest_first[1:], *oldest_first[-2::-1]]:
        assert migrate(database, revision) == revision
        held = _held(database)
        assert {name: len(rows) for name, rows in before.items()} == {
            name: len(held[name]) for name in before
        }, revision
    assert _held(database) == before


def test_the_known_revisions_are_those_that_alembic_would_run():
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    config.set_main_option("path_separator", "os")
    scripts = ScriptDirectory.from_config(config).walk_revisions()
    assert known_revisions() == tuple(script.revision for script in scripts)


def test_migrating_twice_changes_nothing(database):
    migrate(database)
    assert migrate(database) == current_revision(database) == head_revision()


def test_the_migrations_lead_to_the_tables_of_the_code(database):
    migrate(database)
    with database.connection() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": _differ})
        assert compare_metadata(context, Table.metadata) == []


def _differ(context, _inspected, _column, in_database, in_code):
    """All integer types of SQLite have 64 bits."""
    kinds = in_database, in_code.dialect_impl(context.dialect)
    if context.dialect.name == "sqlite" and all(isinstance(kind, Integer) for kind in kinds):
        return False
    return None  # as usual


def test_a_migration_that_fails_leaves_the_database_as_it_was(database):
    migrate(database)
    before = _held(database)

    def half_a_step():
        with database.connection() as connection:
            connection.exec_driver_sql("DROP TABLE memberships")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        half_a_step()
    assert _held(database) == before
    with pytest.raises(ConfigurationError, match="there is no migration '9999'"):
        migrate(database, "9999")


def test_sqlite_is_set_up_for_durability_and_integrity(tmp_path):
    database = Database(f"sqlite:///{tmp_path / 'muster.db'}", append_notes)
    migrate(database)
    expected = {
        "journal_mode": "wal",
        "synchronous": 2,  # FULL
        "foreign_keys": 1,
        "secure_delete": 1,
        "page_size": 8192,
    }
    with database.read() as session:
        for pragma, value in expected.items():
            result = session.connection().exec_driver_sql(f"PRAGMA {pragma}").scalar()
            assert result == value, pragma
    database.close()
