"""The database's shape: reached step by step, there and back, and equal to the tables."""

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect

from match_server.database import Database
from match_server.migrations import current_revision, head_revision, migrate
from match_server.services.changes import next_number
from match_server.tables import Counter, Table


@pytest.fixture
def database(tmp_path):
    made = Database(f"sqlite:///{tmp_path / 'deep' / 'muster.db'}")
    yield made
    made.close()


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
        assert {row.name: row.value for row in session.query(Counter)} == {
            "changes": 0,
            "events": 0,
        }


def test_migrating_twice_changes_nothing(database):
    migrate(database)
    assert migrate(database) == current_revision(database) == head_revision()


def test_the_migrations_lead_to_the_tables_of_the_code(database):
    migrate(database)
    with database.connection() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Table.metadata) == []


def test_sqlite_is_set_up_for_durability_and_integrity(database):
    migrate(database)
    wanted = {
        "journal_mode": "wal",
        "synchronous": 2,  # FULL
        "foreign_keys": 1,
        "secure_delete": 1,
        "page_size": 8192,
    }
    with database.read() as session:
        for pragma, value in wanted.items():
            found = session.connection().exec_driver_sql(f"PRAGMA {pragma}").scalar()
            assert found == value, pragma
